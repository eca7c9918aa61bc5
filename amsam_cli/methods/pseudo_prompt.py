"""Pseudo Prompt Generator: where the object of the supports may be, from frozen features alone.

FSSAM (ICML 2025), section "Pseudo Prompt Generator", with one change for volumes: similarities are scaled over the
whole volume, not slice by slice, because a slice without the organ must not be given a peak.
Letters: K supports, L labels, C channels, n slices, h x w feature grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LOW_QUANTILE = 0.01
HIGH_QUANTILE = 0.995
AREA_FLOOR = 5e-4


@dataclass(frozen=True, slots=True, eq=False)
class Prototypes:
    """What the labels look like in the supports.

    Attributes:
        foreground: (K, L, C) mean feature inside each label.
        background: (K, L, C) mean feature outside it.
        present: (K, L) bool, whether the support shows the label at all.
    """

    foreground: Tensor
    background: Tensor
    present: Tensor

    def only(self, supports: list[int]) -> Prototypes:
        """Return the prototypes of some supports: leave-one-out and folds."""
        return Prototypes(self.foreground[supports], self.background[supports], self.present[supports])

    def to(self, device: torch.device) -> Prototypes:
        """Return the prototypes on another device."""
        return Prototypes(self.foreground.to(device), self.background.to(device), self.present.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class Priors:
    """Where each label may be, in [0, 1].

    Attributes:
        foreground: (n, L, h, w), P_F: complete, with a noisy background.
        discriminative: (n, L, h, w), P_D: clean, but incomplete.
    """

    foreground: Tensor
    discriminative: Tensor


def scale_to_unit(values: Tensor) -> Tensor:
    """Return `values` scaled so that the last axis reaches from 0 to 1: mm of the paper, (x - min) / (max - min).

    >>> scale_to_unit(torch.tensor([2.0, 4.0, 6.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    low, high = values.amin(dim=-1, keepdim=True), values.amax(dim=-1, keepdim=True)
    return (values - low) / (high - low + 1e-7)


def masked_average(features: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `features` (n, C, h, w) under each `mask` (n, L, h, w), (n, L, C); GAP of the paper."""
    total = torch.einsum("nchw,nlhw->nlc", features, mask)
    return total / (mask.sum(dim=(2, 3)).unsqueeze(-1) + AREA_FLOOR)


def prototypes(features: Tensor, masks: Tensor) -> Prototypes:
    """Return prototypes of supports with `features` (K, C, h, w) and soft `masks` (K, L, S, S)."""
    size = (int(features.shape[-2]), int(features.shape[-1]))
    small = F.interpolate(masks, size=size, mode="bilinear", antialias=True, align_corners=False)
    present = masks.amax(dim=(2, 3)) > 0.5
    return Prototypes(masked_average(features, small), masked_average(features, 1 - small), present)


def similarities(features: Tensor, known: Prototypes) -> tuple[Tensor, Tensor]:
    """Return raw cosines of `features` (n, C, h, w) to foreground and background, (n, L, h, w) each.

    Means over the supports that show the label; a label no support shows is nowhere similar (-1).
    """
    flat = F.normalize(features.float(), dim=1)
    weight = known.present.float()
    weight = weight / weight.sum(dim=0, keepdim=True).clamp_min(1)

    def mean_cosine(prototype: Tensor) -> Tensor:
        direction = torch.einsum("klc,kl->lc", F.normalize(prototype, dim=-1), weight)
        return torch.einsum("nchw,lc->nlhw", flat, direction)

    shown = known.present.any(dim=0)[None, :, None, None]
    foreground = torch.where(shown, mean_cosine(known.foreground), -1.0)
    return foreground, mean_cosine(known.background)


def priors(foreground: Tensor, background: Tensor, *, over: tuple[Tensor, Tensor] | None = None) -> Priors:
    """Return priors from raw cosines (n, L, h, w), scaled by the quantiles of the volume.

    `over` are the cosines of the volume's slices where the slices asked for are only some of them.
    """
    all_foreground, all_background = over or (foreground, background)
    scaled_f = _scale(foreground, all_foreground)
    scaled_b = _scale(background, all_background)
    difference = (scaled_f - scaled_b).relu()
    peak = (_scale(all_foreground, all_foreground) - _scale(all_background, all_background)).relu()
    highest = peak.transpose(0, 1).flatten(1).amax(dim=1).clamp_min(1e-7)
    return Priors(scaled_f, (difference / highest[None, :, None, None]).clamp(0, 1))


def _scale(values: Tensor, volume: Tensor) -> Tensor:
    """Return `values` scaled so that the volume's 1 % and 99.5 % quantiles are 0 and 1, per label."""
    flat = volume.transpose(0, 1).flatten(1)
    flat = flat[:, :: max(1, flat.shape[1] // 200_000)]
    low = flat.quantile(LOW_QUANTILE, dim=1)[None, :, None, None]
    high = flat.quantile(HIGH_QUANTILE, dim=1)[None, :, None, None]
    return ((values - low) / (high - low).clamp_min(1e-7)).clamp(0, 1)
