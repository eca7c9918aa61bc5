"""How many frames go through a network at once."""

from __future__ import annotations

import torch

WIDE, FEW = 256, 2
"""On a processor, frames wider than this are encoded by twos: what becomes of more no longer fits its caches."""


def is_wide(device: torch.device, side: int) -> bool:
    """Return whether frames of `side` pixels are too wide to go together in great numbers."""
    return device.type == "cpu" and side > WIDE


def pace(device: torch.device, side: int, most: int) -> int:
    """Return how many frames of `side` pixels to encode at once, at most `most`.

    >>> cpu = torch.device("cpu")
    >>> pace(cpu, 256, 16), pace(cpu, 512, 16), pace(cpu, 512, 1), pace(torch.device("cuda"), 512, 16)
    (16, 2, 1, 16)
    """
    return min(FEW, most) if is_wide(device, side) else most
