"""Support-Calibrated Memory Attention: mute what this scan's own memories call the object but the supports do not.

FSSAM (ICML 2025), section "Support-Calibrated Memory Attention". It holds no weights: it is a `Bias` that memory
attention adds to its scores, made of the very queries and keys it attends with. Supports stay separate blocks, since
slices of different patients are not aligned pixel by pixel; only their verdicts are averaged.
Letters: B rows, N queries, n keys of one memory, d width of the attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.methods.pseudo_prompt import AREA_FLOOR, scale_to_unit
from amsam_cli.models.base import Memory, Span

STRONGEST = 10.0
"""The bias of a key that no support knows and no query wants."""


@torch.no_grad()
def calibrate(queries: Tensor, keys: Tensor, spans: Sequence[Span]) -> Tensor:
    """Return the bias of memory attention, (B, N, M) in [-10, 0]: a `Bias` for `MemoryModel.recall`.

    FSSAM, steps 1 to 3: the prototype pi of each support is the mean of its keys under its mask; kappa is how alike a
    key of the scan's own memory is to it; S is how much a query wants that key. Both in [0, 1], beta =
    10 min(0, S + kappa - 1). It is a constant for gradients. No own memory, or no support: zero everywhere.
    """
    bias = torch.zeros(len(queries), queries.shape[1], keys.shape[1], device=queries.device, dtype=queries.dtype)
    supports = [(memory, span) for memory, span in spans if not memory.is_own]
    if not supports:
        return bias
    prototypes = torch.stack([_prototype(keys[:, span], memory.mask) for memory, span in supports], dim=1)
    weight = torch.stack([_there(memory) for memory, _ in supports], dim=1).to(queries.dtype)
    weight = weight / weight.sum(dim=1, keepdim=True).clamp_min(1)
    for memory, span in spans:
        if memory.is_own:
            own = keys[:, span]
            alike = torch.einsum("bnd,bkd->bkn", F.normalize(own, dim=-1), F.normalize(prototypes, dim=-1))
            kappa = torch.einsum("bkn,bk->bn", scale_to_unit(alike), weight)
            wanted = scale_to_unit(queries @ own.mT)
            bias[:, :, span] = STRONGEST * (wanted + kappa[:, None] - 1).clamp_max(0)
    return bias


def _prototype(keys: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of keys (B, n, d) under a mask (B, 1, h, w), (B, d)."""
    flat = mask.flatten(1).to(keys.dtype)
    total = torch.einsum("bnd,bn->bd", keys, flat)
    return total / (flat.sum(dim=1, keepdim=True) + AREA_FLOOR)


def _there(memory: Memory) -> Tensor:
    """Return which rows have a memory, (B,) bool."""
    if memory.there is not None:
        return memory.there
    return torch.ones(len(memory), dtype=torch.bool, device=memory.map.device)
