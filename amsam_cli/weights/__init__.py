"""Checkpoints: which exist, where they lie on this machine, whether they are what they claim to be.

Knows file names, hashes and URLs; knows no network architecture and loads no torch.
"""

from amsam_cli.weights.cache import Status, ensure, home, is_offline, location, pull, sha256_of, verify
from amsam_cli.weights.registry import CHECKPOINTS, Checkpoint, find_checkpoint, parse_model

__all__ = [
    "CHECKPOINTS",
    "Checkpoint",
    "Status",
    "ensure",
    "find_checkpoint",
    "home",
    "is_offline",
    "location",
    "parse_model",
    "pull",
    "sha256_of",
    "verify",
]
