"""Invented anatomies: label fields that look like organs in a body, drawn from noise and simple solids.

A field is one soft volume per label; the label of a voxel is the channel that is highest there. Fields are sampled at
warped coordinates, so one anatomy serves many "patients" and slices with borders that stay smooth at any resolution.
Knows torch only. Letters: B anatomies, L labels, Z, G, G the field grid.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

GRID = (16, 40, 40)


def invent(count: int, labels: int, generator: torch.Generator) -> Tensor:
    """Return `count` anatomies as fields (B, L, Z, G, G); channel 0 is what surrounds the body.

    Tissue is multi-scale noise (its highest channel partitions the body); over it lie ellipsoids, tubes and shells
    with a core, as organs, vessels, and walls round cavities.
    """
    tissue = _noise(count, labels, generator)
    solids = _solids(count, labels, generator)
    fields = torch.maximum(tissue, solids)
    fields[:, 0] = _outside(count, generator)
    return fields


def positions(grid: tuple[int, int, int] = GRID) -> Tensor:
    """Return the coordinates of a field's voxels, (3, Z, G, G) as x, y, z in [-1, 1]."""
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in grid), indexing="ij")
    return torch.stack([x, y, z])


def smooth_noise(shape: tuple[int, ...], cells: int, generator: torch.Generator) -> Tensor:
    """Return noise of unit spread over `shape` (N, C, *space) that varies over about `cells` cells across."""
    space = shape[2:]
    coarse = [min(cells, size) for size in space]
    noise = torch.randn(*shape[:2], *coarse, generator=generator)
    mode = "trilinear" if len(space) == 3 else "bicubic"
    return F.interpolate(noise, size=space, mode=mode, align_corners=True)


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return uniform numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def _noise(count: int, labels: int, generator: torch.Generator) -> Tensor:
    """Return tissue fields: three octaves, mixed differently for each anatomy."""
    shape = (count, labels, *GRID)
    octaves = [smooth_noise(shape, cells, generator) for cells in (3, 6, 12)]
    weights = torch.rand(3, count, 1, 1, 1, 1, generator=generator).square()
    weights = weights / weights.sum(dim=0)
    return torch.stack(octaves).mul(weights).sum(dim=0)


def _solids(count: int, labels: int, generator: torch.Generator) -> Tensor:
    """Return fields of one solid per label, far below the tissue where it has none.

    Of the labels, four in ten are ellipsoids, two in ten tubes along z, and two in ten are the wall around the label
    before them, as myocardium is around its cavity; the rest stay tissue.
    """
    kind = torch.rand(count, labels, 1, 1, 1, generator=generator)
    is_tube = (kind > 0.4) & (kind < 0.6)
    is_wall = (kind > 0.6) & (kind < 0.8)
    is_solid = (kind < 0.6) | is_wall.roll(-1, dims=1)
    distance = _distance(is_tube, generator)
    thickness = uniform((count, labels, 1, 1, 1), 0.15, 0.5, generator)
    beyond = distance.roll(1, dims=1) - 1.0
    wall = torch.minimum(beyond, thickness - beyond)
    depth = torch.where(is_wall, wall, torch.where(is_solid, 1.0 - distance, -1.0))
    return torch.where(depth > -0.3, 4.0 + 10.0 * depth, -20.0)


def _distance(is_tube: Tensor, generator: torch.Generator) -> Tensor:
    """Return each label's elliptic distance from its centre, 1 on its surface, (B, L, Z, G, G); slightly irregular."""
    count, labels = is_tube.shape[:2]
    shape = (count, labels, 3, 1, 1, 1)
    centre = uniform(shape, -0.65, 0.65, generator)
    radius = uniform(shape, 0.08, 0.45, generator)
    # A tube follows z: its centre wanders with depth, and depth does not count in its distance.
    sway = 0.15 * smooth_noise((count * labels, 2, GRID[0], 1, 1), 4, generator)
    sway = sway.view(count, labels, 2, GRID[0], 1, 1) * is_tube[:, :, None]
    x, y, z = (positions().view(1, 1, 3, *GRID) - centre).unbind(dim=2)
    radius_x, radius_y, radius_z = radius.unbind(dim=2)
    across = ((x - sway[:, :, 0]) / radius_x).square() + ((y - sway[:, :, 1]) / radius_y).square()
    squared = across + torch.where(is_tube, 0.0, (z / radius_z).square())
    return squared.add(1e-6).sqrt() + 0.12 * smooth_noise((count, labels, *GRID), 8, generator)


def _outside(count: int, generator: torch.Generator) -> Tensor:
    """Return the field of what surrounds the body: high outside a wobbly ellipse; some anatomies fill the frame."""
    x, y, _ = positions()
    size = uniform((count, 2, 1, 1, 1), 0.65, 1.1, generator)
    wobble = 0.12 * smooth_noise((count, 1, *GRID), 5, generator)[:, 0]
    distance = ((x / size[:, 0]).square() + (y / size[:, 1]).square()).sqrt() + wobble
    fills = torch.rand(count, 1, 1, 1, generator=generator) < 0.35
    return torch.where(fills, torch.full_like(distance, -20.0), 40.0 * (distance - 1.0))
