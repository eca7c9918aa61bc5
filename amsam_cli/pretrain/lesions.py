"""Things that grow anywhere: in some episodes blobs that have one look but no place, as tumours, nodules and moles do.

Organs of an anatomy lie where the supports show them, give or take a patient. A lesion does not, so what is learned of
it has to be how it differs from what lies around it. Knows torch only. Letters: B episodes, T frames, S frame side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amsam_cli.pretrain.anatomy import smooth_noise, uniform

SHARE = 0.3
"""Of the episodes, how many are about a lesion."""
WANDERING = 6
"""Bumps across a frame in the outline of a lesion."""


def with_lesions(
    label: Tensor, target: Tensor, gone: Tensor, first: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return labels (B, T, S, S) in which some episodes have a lesion, and the targets (B, 2) with it in their place.

    A lesion has the labels `first` (its rim) and `first + 1` (its core; without one, its rim is all of it), in frames
    that are not `gone` (B, T). It never lies on background.
    """
    batch, frames = label.shape[:2]
    chosen = torch.rand(batch, generator=generator) < SHARE
    if not chosen.any():
        return label, target
    depth = _depth(batch, frames, label.shape[-1], generator)  # (B, T, S, S), positive inside
    core = uniform((batch, 1, 1, 1), 0.2, 0.8, generator)
    core = torch.where(torch.rand(batch, 1, 1, 1, generator=generator) < 0.5, core, torch.inf)
    covered = chosen[:, None, None, None] & ~gone[..., None, None] & (label > 0) & (depth > 0)
    label = torch.where(covered, first + (depth > core).long(), label)
    return label, torch.where(chosen[:, None], torch.tensor([first, first + 1]), target)


def _depth(batch: int, frames: int, side: int, generator: torch.Generator) -> Tensor:
    """Return how deep each pixel lies in its frame's lesion: 1 at the middle, 0 at the outline, below outside."""
    size = uniform((batch, 1), math.log(0.05), math.log(0.6), generator).exp()
    radius = size * uniform((batch, frames), -0.4, 0.4, generator).exp()
    stretch = uniform((batch, frames), -0.35, 0.35, generator).exp()
    centre = uniform((batch, frames, 2), -0.65, 0.65, generator)
    line = torch.linspace(-1, 1, side)
    y = (line[None, None, :, None] - centre[..., 0, None, None]) * stretch[..., None, None]
    x = (line[None, None, None, :] - centre[..., 1, None, None]) / stretch[..., None, None]
    bumps = smooth_noise((batch * frames, 1, side, side), WANDERING, generator).view(batch, frames, side, side)
    ragged = uniform((batch, 1, 1, 1), 0.0, 0.4, generator)
    return 1 - (x.square() + y.square()).sqrt() / radius[..., None, None] + ragged * bumps
