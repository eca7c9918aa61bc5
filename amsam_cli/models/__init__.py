"""Segmentation models by name: the one place where a name becomes a network with weights on a device.

Knows the registry of checkpoints and every wrapper; importing this package loads none of the networks' packages.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from amsam_cli.errors import InputError
from amsam_cli.weights import Checkpoint, ensure, find_checkpoint, parse_model

if TYPE_CHECKING:
    import torch

    from amsam_cli.models.base import PromptableModel

__all__ = ["choose_device", "load"]

STRIDE = 32
"""Frame sides are multiples of this, so that every grid of every encoder is whole."""


def load(spec: str, device: str = "cpu", *, image_size: int | None = None) -> PromptableModel:
    """Return a model ready to encode: "builtin", "sam2.1-tiny", "medsam=medsam_vit_b.pth", …

    Args:
        spec: a name of the registry, or NAME=checkpoint.pt for weights from a file.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        image_size: frame side in pixels, a multiple of 32; None = the registry's.

    Raises:
        InputError: the name, device or side cannot be used.
        WeightsError: the weights are missing, damaged or of another architecture.
    """
    name, given = parse_model(spec)
    checkpoint = find_checkpoint(name)
    side = checkpoint.image_size if image_size is None else image_size
    if side < STRIDE or side % STRIDE:
        raise InputError(
            f"A frame side of {side} px does not fit {name}; it must be a positive multiple of {STRIDE}.",
            f"use {checkpoint.image_size}, the side {name} is used at by default.",
        )
    target = choose_device(device)
    path = given or ensure(name)
    if checkpoint.family == "sam1":
        return _load_sam1(checkpoint, path, target, side)
    return _load_sam2(checkpoint, path, target, side)


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the first of cuda, mps and cpu that is there.

    Raises:
        InputError: there is no such device on this machine; no other is taken in its place.
    """
    import torch

    cuda, mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    kind, _, index = name.partition(":")
    known = ["cpu", *(f"cuda:{i}" for i in range(cuda)), *(["mps"] if mps else [])]
    if name in known or (name == "cuda" and cuda):
        return torch.device(name)
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        reason = "is none of auto, cpu, cuda, cuda:N and mps"
    else:
        reason = f"is not on this machine, which has {', '.join(known)}"
    raise InputError(f"Device '{name}' {reason}.", "use --device auto to take the best one there is.")


def _load_sam1(checkpoint: Checkpoint, path: Path, device: torch.device, side: int) -> PromptableModel:
    """Return SAM or MedSAM with its position tables resized to the frame side."""
    from amsam_cli.models.sam1 import VITS, Sam1, build_network, resize_positions
    from amsam_cli.models.state import fill, read_state

    network = build_network(VITS[checkpoint.architecture], side, unit_pixels=checkpoint.name == "medsam")
    fill(network, resize_positions(read_state(path), network), name=checkpoint.name, path=path)
    return Sam1(network.to(device), checkpoint.name)


def _load_sam2(checkpoint: Checkpoint, path: Path, device: torch.device, side: int) -> PromptableModel:
    """Return SAM 2.1, MedSAM2 or the built-in model; their weights fit every frame side."""
    from amsam_cli.models import builtin, sam2
    from amsam_cli.models.state import fill, read_state

    is_builtin = checkpoint.family == "builtin"
    network = builtin.build_network() if is_builtin else sam2.build_network(checkpoint.architecture)
    fill(network, read_state(path), name=checkpoint.name, path=path)
    return sam2.Sam2(network.to(device), checkpoint.name, side)
