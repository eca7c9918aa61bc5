"""Several looks at the same labels become one: logits, how sure, and how well the looks agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from amsam_cli.methods.blending import KINDS, Blend
from amsam_cli.methods.confidence import own_estimate
from amsam_cli.methods.losses import to_side
from amsam_cli.models.base import CLIP
from amsam_cli.segmentation.looks import Look
from amsam_cli.segmentation.tracking import agreement

SLICES = 16


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """What was seen, all looks together.

    Attributes:
        logits: (D, L, s, s) float16; -10 everywhere on a slice where every look holds the label to be absent.
        score: (D, L) predicted IoU.
        presence: (D, L) probability that the label is there.
        agreement: (D, L) mean Dice of every pair of looks that saw the slice; 0 where fewer than two did.
        own: (D, L) Dice to be expected of the mask if each pixel's probability is right; 0 for no mask.
    """

    logits: Tensor
    score: Tensor
    presence: Tensor
    agreement: Tensor
    own: Tensor

    @property
    def painted(self) -> Tensor:
        """Whether there is a mask, (D, L) bool."""
        return (self.logits > 0).flatten(2).any(dim=2)

    def own_of_labels(self) -> Tensor:
        """Return what each label's whole mask expects of itself, (L,): what its slices do, by their area."""
        area = (self.logits > 0).flatten(2).sum(dim=2).float()
        return (self.own * area).sum(dim=0) / area.sum(dim=0).clamp_min(1)


def fuse(looks: Mapping[str, Look], blends: Sequence[Blend]) -> Fused:
    """Return the weighted mean of looks, by predicted IoU and by the share that each kind earned on the shots.

    A look that is alone has nothing to share with, whatever it earned.
    """
    is_alone = len(looks) == 1
    weights = {
        name: look.weight * look.score * torch.tensor([1.0 if is_alone else blend.share(name) for blend in blends])
        for name, look in looks.items()
    }
    total = torch.stack([*weights.values()]).sum(dim=0).clamp_min(1e-6)
    presence = sum(weights[name] * look.presence for name, look in looks.items()) / total
    score = sum(weights[name] * look.score for name, look in looks.items()) / total
    logits = _mean_logits(looks, {name: weight / total for name, weight in weights.items()})
    if looks.keys() >= set(KINDS):  # the level is that of all kinds together
        logits -= torch.tensor([blend.level for blend in blends], dtype=logits.dtype)[:, None, None]
    # One look's word is not enough, whatever its share: memory may not know again what the others see well.
    logits[torch.stack([look.presence for look in looks.values()]).amax(dim=0) < 0.5] = -CLIP
    return Fused(logits, score, presence, _agreement([*looks.values()]), own_estimate(logits))


def _mean_logits(looks: Mapping[str, Look], shares: Mapping[str, Tensor]) -> Tensor:
    """Return the mean logits (D, L, s, s) by shares (D, L), some slices at a time."""
    side = max(look.logits.shape[-1] for look in looks.values())
    first = next(iter(looks.values())).logits
    mean = torch.empty(*first.shape[:2], side, side, dtype=torch.float16)
    for start in range(0, len(first), SLICES):
        rows = slice(start, start + SLICES)
        parts = [
            to_side(look.logits[rows].float(), side) * shares[name][rows, :, None, None] for name, look in looks.items()
        ]
        mean[rows] = torch.stack(parts).sum(dim=0).to(torch.float16)
    return mean


def _agreement(looks: Sequence[Look]) -> Tensor:
    """Return the mean Dice of every pair of looks, (D, L); looks that never reached a slice do not count there."""
    total = torch.zeros_like(looks[0].score)
    pairs = torch.zeros_like(total)
    for first, second in combinations(looks, 2):
        both = ((first.score > 0) & (second.score > 0)).float()
        total += both * agreement(first.logits, second.logits)
        pairs += both
    return torch.where(pairs > 0, total / pairs.clamp_min(1), 0.0)
