"""Things that grow anywhere: in some episodes blobs that have one look but no place, as tumours, nodules and moles do.

Organs of an anatomy lie where the supports show them, give or take a patient. A lesion does not, so what is learned of
it has to be how it differs from what lies around it, and in what it grows. Knows torch only. Letters: B episodes,
T frames, S frame side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amsam_cli.pretrain.anatomy import smooth_noise, uniform

SHARE = 0.3
"""Of the episodes, how many are about a lesion."""
HOSTED = 0.7
"""Share of the episodes about a lesion in which it grows in one tissue, as nodules do in lungs."""
WANDERING = 6
"""Bumps across a frame in the outline of a lesion."""
ADDED = (True, True, False)
"""The labels added to those of an anatomy, and which of them may be a target: rim, core, and no vessel."""
VESSELS = 0.4
"""Share of the episodes about a lesion in which vessels look as it does."""


def with_lesions(
    label: Tensor, target: Tensor, gone: Tensor, first: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return labels (B, T, S, S) in which some episodes have a lesion, and the targets (B, 2) with it in their place.

    A lesion has the labels `first` (its rim) and `first + 1` (its core; without one, its rim is all of it), in frames
    that are not `gone` (B, T). It never lies on background, nor do vessels (`first + 2`), which run in some of these
    episodes in every frame.
    """
    batch, frames = label.shape[:2]
    chosen = torch.rand(batch, generator=generator) < SHARE
    if not chosen.any():
        return label, target
    depth = _depth(_centres(label, generator), label.shape[-1], generator)  # (B, T, S, S), positive inside
    core = uniform((batch, 1, 1, 1), 0.2, 0.8, generator)
    core = torch.where(torch.rand(batch, 1, 1, 1, generator=generator) < 0.5, core, torch.inf)
    inhabited = chosen[:, None, None, None] & (label > 0)
    label = torch.where(inhabited & _vessels(batch, frames, label.shape[-1], generator), first + 2, label)
    covered = inhabited & (depth > 0) & ~gone[..., None, None]
    label = torch.where(covered, first + (depth > core).long(), label)
    return label, torch.where(chosen[:, None], torch.tensor([first, first + 1]), target)


def _centres(label: Tensor, generator: torch.Generator) -> Tensor:
    """Return the middle of each frame's lesion, (B, T, 2) as y, x: anywhere, or in one tissue of the episode."""
    batch, frames, side, _ = label.shape
    anywhere = uniform((batch, frames, 2), -0.65, 0.65, generator)
    first = label[:, 0].flatten(1)
    host = first.gather(1, torch.multinomial((first > 0) + 1e-9, 1, generator=generator))
    inside = (label.flatten(2) == host[..., None]).flatten(0, 1)
    index = torch.multinomial(inside + 1e-9, 1, generator=generator).view(batch, frames)
    hosted = torch.stack([index // side, index % side], dim=-1) * 2 / (side - 1) - 1
    is_hosted = torch.rand(batch, 1, 1, generator=generator) < HOSTED
    return torch.where(is_hosted & inside.view(batch, frames, -1).any(dim=-1, keepdim=True), hosted, anywhere)


def _depth(centre: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Return how deep each pixel lies in its frame's lesion: 1 at the middle, 0 at the outline, below outside."""
    batch, frames = centre.shape[:2]
    size = uniform((batch, 1), math.log(0.05), math.log(0.6), generator).exp()
    radius = size * uniform((batch, frames), -0.4, 0.4, generator).exp()
    stretch = uniform((batch, frames), -0.35, 0.35, generator).exp()
    line = torch.linspace(-1, 1, side)
    y = (line[None, None, :, None] - centre[..., 0, None, None]) * stretch[..., None, None]
    x = (line[None, None, None, :] - centre[..., 1, None, None]) / stretch[..., None, None]
    bumps = smooth_noise((batch * frames, 1, side, side), WANDERING, generator).view(batch, frames, side, side)
    ragged = uniform((batch, 1, 1, 1), 0.0, 0.4, generator)
    return 1 - (x.square() + y.square()).sqrt() / radius[..., None, None] + ragged * bumps


def _vessels(batch: int, frames: int, side: int, generator: torch.Generator) -> Tensor:
    """Return where vessels run, (B, T, S, S) bool: along the zeros of noise, in pieces as a slice cuts them."""
    shape = (batch * frames, 1, side, side)
    course, cut = (smooth_noise(shape, 6, generator).view(batch, frames, side, side) for _ in range(2))
    width = uniform((batch, 1, 1, 1), 0.05, 0.3, generator)
    has = torch.rand(batch, 1, 1, 1, generator=generator) < VESSELS
    return has & (course.abs() < width) & (cut > 0.3)
