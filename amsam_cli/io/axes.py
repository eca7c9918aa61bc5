"""From a file's own voxel axes to (D, H, W): which axis is sliced, and which way round.

Decides from geometry and labels alone; reads no file.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from amsam_cli.errors import GeometryError
from amsam_cli.volume import CANONICAL_AXES, AxisOrder, Geometry, Plane

# World axis (x, y, z of RAS+) and direction along it.
_DIRECTIONS = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
_NORMAL_TO: tuple[Plane, Plane, Plane] = ("sagittal", "coronal", "axial")

THICK = 1.5
"""From this ratio of spacings on, the coarsest axis is the slicing direction."""


def checked_geometry(shape: tuple[int, int, int], affine: NDArray[np.float64], name: str) -> Geometry:
    """Return the grid of file `name`, if its affine places voxels in space at all.

    Raises:
        GeometryError: an entry is not finite, or two axes run the same way.
    """
    axes = np.asarray(affine, dtype=np.float64)[:3, :3]
    with np.errstate(all="ignore"):
        volume = abs(np.linalg.det(axes / np.linalg.norm(axes, axis=0))) if np.isfinite(affine).all() else 0.0
    if not volume > 1e-3:  # also for NaN, of an axis of length zero
        raise GeometryError(
            f"The axes in the header of '{name}' span no space: {np.array2string(axes, precision=4)}.",
            "Export the scan again; its header says nothing about where its voxels are.",
        )
    return Geometry(shape, affine)


def axis_order(stored: Geometry, plane: Plane) -> AxisOrder:
    """Return how the file axes of `stored` become `CANONICAL_AXES[plane]`, oblique ones by the closest direction.

    >>> axis_order(Geometry((4, 5, 6), np.diag([-1.0, -1.0, 1.0, 1.0])), "axial")
    AxisOrder(axes=(2, 1, 0), flips=(False, False, False))
    """
    if stored.unit == "px":
        return AxisOrder()
    file_axes = io_orientation(stored.affine)
    axes, flips = [], []
    for letter in CANONICAL_AXES[plane]:
        world, direction = _DIRECTIONS[letter]
        axis = int(np.flatnonzero(file_axes[:, 0] == world)[0])
        axes.append(axis)
        flips.append(bool(file_axes[axis, 1] != direction))
    return AxisOrder((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))


def plane_of_axis(stored: Geometry, axis: int) -> Plane:
    """Return the anatomical plane closest to slices across file axis `axis`."""
    return _NORMAL_TO[int(io_orientation(stored.affine)[axis, 0])]


def plane_of_volume(stored: Geometry) -> Plane:
    """Return the plane a scan was taken in: across its single or its coarsest axis, else its third.

    Args:
        stored: the grid in file axes. Coarsest: at least 1.5 times the spacing of both others.

    >>> plane_of_volume(Geometry((4, 5, 6), np.diag([3.0, 1.0, 1.0, 1.0])))
    'sagittal'
    """
    if stored.unit == "px":
        return "axial"
    single = [axis for axis, size in enumerate(stored.shape) if size == 1]
    if len(single) == 1:
        return plane_of_axis(stored, single[0])
    spacing = np.asarray(stored.spacing)
    second, coarsest = np.argsort(spacing)[-2:]
    is_thick = spacing[coarsest] >= THICK * spacing[second] * (1 - 1e-4)  # a header holds 32-bit numbers
    return plane_of_axis(stored, int(coarsest) if is_thick else 2)


def plane_of_labels(data: NDArray[np.integer], stored: Geometry) -> Plane:
    """Return the plane labels were drawn in: of sparse ones the plane with the fewest labelled slices, else the scan's.

    Args:
        data: labels in file axes, (I, J, K).
        stored: their grid.
    """
    used = [np.asarray((data != 0).any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    axis = sparse_axis((used[0], used[1], used[2]))
    return plane_of_volume(stored) if axis is None or stored.unit == "px" else plane_of_axis(stored, axis)


def sparse_axis(labelled: tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]) -> int | None:
    """Return the axis along which only some slices were annotated, or None where labels look dense.

    Whole slices drawn here and there are wide across and few along: a third of the extent across if they stand alone,
    a sixth if they are neighbours, which no organ is thin enough to be.

    Args:
        labelled: per file axis, which slices across it hold a label.
    """
    counts = [int(used.sum()) for used in labelled]
    axis = int(np.argmin(counts))
    few, across = counts[axis], min(count for other, count in enumerate(counts) if other != axis)
    if few == 0:
        return None
    runs = sum(1 for value, _ in groupby(labelled[axis].tolist()) if value)
    stand_alone = few <= 2 * runs
    return axis if few * (3 if stand_alone else 6) <= across else None
