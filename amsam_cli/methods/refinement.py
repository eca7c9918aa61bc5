"""Iterative Memory Refinement: grow a clean but incomplete memory into a complete one that is still clean.

FSSAM (ICML 2025), section "Iterative Memory Refinement". Of one slice there are two memories: that of the foreground
prior, complete with a noisy background, and that of the discriminative prior, clean with holes. No weights.
Letters: B rows, K supports, h x w grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.methods.pseudo_prompt import AREA_FLOOR, scale_to_unit
from amsam_cli.models.base import Memory

ROUNDS = 3
"""Best trade-off of the paper."""


def refine(complete: Memory, clean: Memory, supports: Sequence[Memory], *, rounds: int = ROUNDS) -> Memory:
    """Return `clean`, its map and mask mixed with those of `complete` where supports and memory agree on the object.

    Args:
        complete: M_F with P_F as its mask.
        clean: M_D with P_D as its mask; its pointer is kept.
        supports: M_S with Y_S, one row for each of theirs.
        rounds: R.

    In each round q says where M_F looks like what M_D already holds, a (once) where it looks like the supports, and
    omega = relu(q + a - 1) is the share that M_F gets: M_D <- omega M_F + (1 - omega) M_D, and P_D likewise, scaled to
    [0, 1]. Without supports `clean` comes back unchanged.
    """
    if not supports:
        return clean
    veto = torch.stack([_likeness(complete.map, _mean(memory.map, memory.mask)) for memory in supports]).mean(dim=0)
    mask, content = clean.mask, clean.map
    for _ in range(rounds):
        share = (_likeness(complete.map, _mean(content, mask)) + veto - 1).relu()
        content = share * complete.map + (1 - share) * content
        mixed = share * complete.mask + (1 - share) * mask
        mask = scale_to_unit(mixed.flatten(1)).view(mask.shape)
    return replace(clean, map=content, mask=mask)


def _mean(content: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of a map (B, Cm, h, w) under a mask (B, 1, h, w), (B, Cm)."""
    return (content * mask).sum(dim=(2, 3)) / (mask.sum(dim=(2, 3)) + AREA_FLOOR)


def _likeness(content: Tensor, prototype: Tensor) -> Tensor:
    """Return the cosine of each place of a map (B, Cm, h, w) to a prototype (B, Cm), scaled to [0, 1]: (B, 1, h, w)."""
    cosine = F.cosine_similarity(content, prototype[:, :, None, None], dim=1)
    return scale_to_unit(cosine.flatten(1)).view(len(content), 1, *content.shape[-2:])
