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

__all__ = ["choose_device", "load", "untrained"]

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
    return _filled(untrained(checkpoint, target, side), checkpoint, path)


def untrained(checkpoint: Checkpoint, device: torch.device, side: int) -> PromptableModel:
    """Return the model of a checkpoint with random weights, at a frame side."""
    if checkpoint.family == "sam1":
        from amsam_cli.models import sam1

        vit = sam1.build_network(sam1.VITS[checkpoint.architecture], side, unit_pixels=checkpoint.name == "medsam")
        return sam1.Sam1(vit.to(device), checkpoint.name)
    from amsam_cli.models import builtin, sam2

    is_builtin = checkpoint.family == "builtin"
    network = builtin.build_network() if is_builtin else sam2.build_network(checkpoint.architecture)
    return sam2.Sam2(network.to(device), checkpoint.name, side)


def _filled(model: PromptableModel, checkpoint: Checkpoint, path: Path) -> PromptableModel:
    """Return the model with the weights of a file; only SAM's position tables depend on the frame side."""
    from amsam_cli.models.state import fill, read_state

    state = read_state(path)
    if checkpoint.family == "sam1":
        from amsam_cli.models.sam1 import resize_positions

        state = resize_positions(state, model.network)
    fill(model.network, state, name=checkpoint.name, path=path)
    return model


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
