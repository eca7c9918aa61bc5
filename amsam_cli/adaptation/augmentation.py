"""Random views of annotated frames: turned, zoomed, moved, bent, brightened, blurred, noisy; a whole batch at once.

Plain tensor arithmetic, since where the encoder is tuned every step needs new views: MONAI's transforms, one view at a
time, would take longer than the network. No flips: anatomy has sides, and a left kidney must not become a right one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Strength:
    """How far views stray.

    Attributes:
        turn: radians either way.
        stretch: log of the scale either way.
        move: share of the frame either way.
        bend: elastic displacement in frames.
        closer: share of views that show a part of the frame, near the labels, up to three times as large.
    """

    turn: float = 0.3
    stretch: float = 0.25
    move: float = 0.24
    bend: float = 0.035
    closer: float = 0.4


def augment(
    pixels: Tensor, masks: Tensor, generator: torch.Generator, *, side: int, strength: Strength | None = None
) -> tuple[Tensor, Tensor]:
    """Return another view of each of `pixels` (B, 3, S, S) and `masks` (B, L, S, S), both at `side`.

    What a view shows of beyond the frame is black and unlabelled.
    """
    chance = _Chance(generator, len(pixels))
    grid = _grid(masks, chance, side, strength or Strength()).to(pixels.device)
    both = F.grid_sample(torch.cat([pixels, masks], dim=1), grid, padding_mode="zeros", align_corners=False)
    moved, labels = both[:, : pixels.shape[1]], both[:, pixels.shape[1] :].clamp(0, 1)
    return _recolour(moved, chance), labels


@dataclass(frozen=True, slots=True)
class _Chance:
    """Random numbers for each row of a batch."""

    generator: torch.Generator
    rows: int

    def uniform(self, low: float, high: float) -> Tensor:
        """Return one number for each row, (B,)."""
        return low + (high - low) * torch.rand(self.rows, generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        """Return normal noise (B, *shape)."""
        return torch.randn(self.rows, *shape, generator=self.generator)

    def some(self, share: float) -> Tensor:
        """Return 1 for a share of the rows and 0 for the others, (B,)."""
        return (torch.rand(self.rows, generator=self.generator) < share).float()

    def pick(self, count: int) -> int:
        """Return a whole number below `count`."""
        return min(count - 1, int(count * torch.rand((), generator=self.generator)))


def _grid(masks: Tensor, chance: _Chance, side: int, strength: Strength) -> Tensor:
    """Return where each pixel of each view comes from, (B, side, side, 2) in [-1, 1]."""
    scale = chance.uniform(-strength.stretch, strength.stretch).exp()
    x, y = chance.uniform(-strength.move, strength.move), chance.uniform(-strength.move, strength.move)
    closer = chance.some(strength.closer) > 0
    share = chance.uniform(-1.1, -0.2).exp()
    near_x, near_y = _near_labels(masks, chance, share)
    scale, x, y = (torch.where(closer, near, far) for near, far in ((share, scale), (near_x, x), (near_y, y)))
    angle, shear = chance.uniform(-strength.turn, strength.turn), chance.uniform(-0.1, 0.1)
    aspect = chance.uniform(-0.1, 0.1).exp()
    cosine, sine = angle.cos(), angle.sin()
    first = torch.stack([scale * aspect * cosine, -scale * (sine + shear), x], dim=1)
    second = torch.stack([scale * sine, scale / aspect * cosine, y], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), [chance.rows, 1, side, side], align_corners=False)
    bend = strength.bend * chance.normal(2, 6, 6) * (scale * chance.some(0.7)).view(-1, 1, 1, 1)
    return grid + F.interpolate(bend, size=(side, side), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)


def _near_labels(masks: Tensor, chance: _Chance, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return middles (B,), (B,) of parts of the frame, `share` as wide as it, that a labelled pixel lies in.

    One in seven lies anywhere, and so do those of frames without a label.
    """
    x, y = chance.uniform(-0.6, 0.6), chance.uniform(-0.6, 0.6)
    off_x, off_y = chance.uniform(-0.7, 0.7) * share, chance.uniform(-0.7, 0.7) * share
    aimed = chance.some(0.85)
    size = masks.shape[-1]
    for row, mask in enumerate(masks.amax(dim=1).cpu()):
        inside = (mask > 0.5).nonzero()
        if len(inside) and aimed[row]:
            row_y, row_x = inside[chance.pick(len(inside))].tolist()
            x[row] = 2 * row_x / size - 1 + off_x[row]
            y[row] = 2 * row_y / size - 1 + off_y[row]
    return x, y


def _recolour(pixels: Tensor, chance: _Chance) -> Tensor:
    """Return pixels (B, 3, s, s) with other brightness, contrast, shading, sharpness and noise."""

    def per_row(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1).to(pixels.device)

    side = pixels.shape[-1]
    pixels = pixels.clamp(1e-4, 1) ** per_row((chance.uniform(-0.45, 0.45) * chance.some(0.6)).exp())
    pixels = (pixels - 0.5) * per_row(1 + chance.uniform(-0.3, 0.3) * chance.some(0.6)) + 0.5
    pixels = pixels + per_row(chance.uniform(-0.12, 0.12) * chance.some(0.5))
    shading = 0.15 * chance.normal(1, 3, 3) * chance.some(0.4).view(-1, 1, 1, 1)
    pixels = pixels * F.interpolate(shading, size=(side, side), mode="bicubic", align_corners=True).exp().to(pixels)
    soft = per_row(0.8 * chance.some(0.25))
    pixels = pixels + soft * (F.avg_pool2d(pixels, 3, stride=1, padding=1) - pixels)
    noise = chance.normal(*pixels.shape[1:]).to(pixels)
    return (pixels + per_row(0.06 * chance.uniform(0, 1) * chance.some(0.5)) * noise).clamp(0, 1)
