"""Labels drawn on one grid, onto the grid of the image they belong to, by world coordinates.

What is lossless is done in silence: the same voxels stored another way round, or a part of the slices. Everything else
is said, and grids that do not meet are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amsam_cli.errors import GeometryError
from amsam_cli.volume import Geometry

EXACT_MM = 0.01
"""So far voxels of one grid may lie off those of the other and still be the same ones."""

SLACK_VOXELS = 0.1
"""What programs lose when they write a header: a tenth of the smallest spacing."""

NOTABLE_LOSS = 0.02
"""Share of the labelled volume; less goes with rounding to voxels."""


@dataclass(frozen=True, eq=False)
class Placed:
    """Labels on the grid that was asked for.

    Attributes:
        values: (I, J, K) on that grid.
        is_exact: whether every voxel is one of the labels' own, or lies outside of their grid.
        remark: what the user should know; "" where nothing was lost.
    """

    values: NDArray[np.uint16]
    is_exact: bool = True
    remark: str = ""


def place(values: NDArray[np.uint16], own: Geometry, target: Geometry, *, name: str) -> Placed:
    """Return labels on the grid of their image.

    Args:
        values: (I, J, K) on `own`.
        own: their grid, any axes.
        target: the image's grid, any axes.
        name: the label file, for messages.

    Raises:
        GeometryError: pictures of different sizes, or fields of view that do not overlap.
    """
    if "px" in (own.unit, target.unit):
        return _same_picture(values, own, target, name)
    to_own = np.linalg.inv(own.affine) @ target.affine
    is_exact = _is_shared_lattice(to_own, own, target)
    placed = (
        _moved(values, np.round(to_own).astype(int), target.shape) if is_exact else _sampled(values, to_own, target)
    )
    kept, labelled = np.count_nonzero(placed) * target.voxel_volume_ml, np.count_nonzero(values) * own.voxel_volume_ml
    if labelled and not kept:
        raise GeometryError(
            f"Mask '{name}' and its image do not overlap: no labelled voxel lies in the image's field of view.",
            "Check the pairing with --dry-run; a mask must be drawn in the space of its scan.",
        )
    lost = 1 - kept / labelled if labelled else 0.0
    return Placed(placed, is_exact, _remark(own, target, lost=lost, is_exact=is_exact))


def joined(first: Geometry, second: Geometry) -> Geometry:
    """Return the grid `first`, extended until it holds every voxel of `second`.

    >>> one = Geometry((2, 2, 2), np.eye(4))
    >>> joined(one, Geometry((5, 2, 1), np.eye(4))).shape
    (5, 2, 2)
    """
    corners = np.c_[second.corners(), np.ones(8)] @ np.linalg.inv(first.affine).T
    low = np.minimum(np.floor(corners.min(axis=0)[:3] + 0.5), 0)
    high = np.maximum(np.floor(corners.max(axis=0)[:3] + 0.5), np.asarray(first.shape) - 1)
    affine = first.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    i, j, k = (int(size) for size in high - low + 1)
    return Geometry((i, j, k), affine, first.unit)


def _same_picture(values: NDArray[np.uint16], own: Geometry, target: Geometry, name: str) -> Placed:
    if own.shape != target.shape or own.unit != target.unit:
        raise GeometryError(
            f"Mask '{name}' has shape {own.shape} in {own.unit} but its image has {target.shape} in {target.unit}.",
            "A picture and its mask must have the same pixels; check the pairing with --dry-run.",
        )
    return Placed(values)


def _is_shared_lattice(to_own: NDArray[np.float64], own: Geometry, target: Geometry) -> bool:
    """Return whether every voxel of the target is, up to what headers round, a voxel place of the labels' grid."""
    corners = np.c_[_corner_indices(target), np.ones(8)]
    off = (corners @ (to_own - np.round(to_own)).T)[:, :3] @ own.affine[:3, :3].T
    is_permutation = bool((np.abs(np.round(to_own[:3, :3])).sum(axis=0) == 1).all())
    tolerance = max(EXACT_MM, SLACK_VOXELS * min(own.spacing))
    return is_permutation and bool(np.abs(off).max() <= tolerance)


def _corner_indices(grid: Geometry) -> NDArray[np.float64]:
    ends = [(0.0, n - 1.0) for n in grid.shape]
    return np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)


def _moved(values: NDArray[np.uint16], to_own: NDArray[np.int_], shape: tuple[int, int, int]) -> NDArray[np.uint16]:
    """Return labels at the voxels of a grid on the same lattice: transposed, flipped, cut and filled up with 0."""
    axes = [int(np.abs(to_own[:3, axis]).argmax()) for axis in range(3)]
    there, here = [], []
    for axis, own_axis in enumerate(axes):
        step, start = int(to_own[own_axis, axis]), int(to_own[own_axis, 3])
        own = start + step * np.arange(shape[axis])
        within = np.flatnonzero((own >= 0) & (own < values.shape[own_axis]))
        here.append(within)
        there.append(own[within])
    placed = np.zeros(shape, np.uint16)
    placed[np.ix_(*here)] = values.transpose(axes)[np.ix_(*there)]
    return placed


def _sampled(values: NDArray[np.uint16], to_own: NDArray[np.float64], target: Geometry) -> NDArray[np.uint16]:
    """Return the nearest label at every voxel of another grid, 0 outside; slab by slab, to save memory."""
    placed = np.zeros(target.shape, np.uint16)
    size = np.asarray(values.shape)[:, None, None]
    jj, kk = np.meshgrid(*map(np.arange, target.shape[1:]), indexing="ij")
    first = np.tensordot(to_own[:3, 1:3], np.stack([jj, kk]), axes=1) + to_own[:3, 3][:, None, None]
    for i, slab in enumerate(placed):
        at = np.floor(first + i * to_own[:3, 0][:, None, None] + 0.5).astype(np.int64)
        within = ((at >= 0) & (at < size)).all(axis=0)
        slab[within] = values[tuple(at[:, within])]
    return placed


def _remark(own: Geometry, target: Geometry, *, lost: float, is_exact: bool) -> str:
    parts = []
    if not is_exact:
        parts.append(
            f"lies on another grid ({_text(own)}) than its image ({_text(target)}); the nearest voxel was taken"
        )
    elif sorted(own.shape) != sorted(target.shape):
        parts.append(f"covers another part of space ({_text(own)}) than its image ({_text(target)})")
    if lost > NOTABLE_LOSS:
        parts.append(f"{100 * lost:.0f} % of what is labelled lies outside of the image")
    return "; ".join(parts)


def _text(grid: Geometry) -> str:
    shape = " x ".join(str(size) for size in grid.shape)
    return f"{shape} voxels of {' x '.join(f'{size:.3g}' for size in grid.spacing)} {grid.unit}"
