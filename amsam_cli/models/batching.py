"""How many frames go through a network at once."""

from __future__ import annotations

import torch

WIDE, FEW = 256, 2
"""On a processor, frames wider than this go by twos: what becomes of more no longer fits its caches."""


def pace(device: torch.device, side: int, most: int) -> int:
    """Return how many frames of `side` pixels to take at once, at most `most`.

    >>> cpu = torch.device("cpu")
    >>> pace(cpu, 256, 16), pace(cpu, 512, 16), pace(cpu, 512, 1), pace(torch.device("cuda"), 512, 16)
    (16, 2, 1, 16)
    """
    return min(FEW, most) if device.type == "cpu" and side > WIDE else most
