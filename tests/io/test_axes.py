from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from numpy.typing import NDArray

from amsam_cli.errors import GeometryError
from amsam_cli.io.axes import axis_order, checked_geometry, plane_of_labels, plane_of_volume
from amsam_cli.volume import CANONICAL_AXES, PLANES, Geometry, Plane

ALL_48 = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]
AXIS_OF = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def stored_affine(order: tuple[int, ...], flips: tuple[int, ...], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Return an affine whose file axis n runs along world axis order[n]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis in range(3):
        affine[order[axis], axis] = flips[axis] * spacing[axis]
    affine[:3, 3] = (-30.0, 12.5, 7.0)
    return affine


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("order", "flips"), ALL_48)
def test_axis_order_reaches_the_canonical_directions(
    order: tuple[int, ...], flips: tuple[int, ...], plane: Plane
) -> None:
    stored = Geometry((4, 5, 6), stored_affine(order, flips, (1.0, 2.0, 3.0)))

    canonical = axis_order(stored, plane).apply_to(stored)

    for axis, letter in enumerate(CANONICAL_AXES[plane]):
        world, direction = AXIS_OF[letter]
        assert canonical.affine[world, axis] * direction > 0


def test_axis_order_leaves_a_picture_alone() -> None:
    order = axis_order(Geometry.of_picture(4, 5), "coronal")

    assert (order.axes, order.flips) == ((0, 1, 2), (False, False, False))


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((9, 9, 9), (1.0, 1.0, 1.0), "axial"),
        ((9, 9, 9), (3.0, 1.0, 1.0), "sagittal"),
        ((9, 9, 9), (1.0, 1.5, 1.0), "coronal"),
        ((9, 9, 9), (1.4, 1.0, 1.0), "axial"),
        ((9, 9, 9), (3.0, 2.5, 1.0), "axial"),
        ((1, 9, 9), (1.0, 1.0, 1.0), "sagittal"),
    ],
    ids=["third_axis", "thick_first", "just_thick", "not_thick_enough", "two_coarse", "single_slice"],
)
def test_plane_of_volume(shape: tuple[int, int, int], spacing: tuple[float, ...], expected: str) -> None:
    assert plane_of_volume(Geometry(shape, np.diag([*spacing, 1.0]))) == expected


def test_plane_of_volume_follows_the_world_not_the_file() -> None:
    stored = Geometry((9, 9, 9), stored_affine((2, 0, 1), (1, -1, 1), (1.0, 1.0, 5.0)))

    assert plane_of_volume(stored) == "coronal"


@pytest.mark.parametrize(
    ("slices", "expected"),
    [([20], "sagittal"), ([5, 20, 35], "sagittal"), (list(range(10, 14)), "sagittal"), (list(range(40)), "axial")],
    ids=["one", "apart", "neighbours", "all"],
)
def test_plane_of_labels_is_where_few_slices_are_labelled(slices: list[int], expected: str) -> None:
    labels = np.zeros((40, 40, 40), np.uint16)
    labels[slices, 5:35, 5:35] = 1

    assert plane_of_labels(labels, Geometry((40, 40, 40), np.eye(4))) == expected


def test_plane_of_labels_is_the_scans_when_they_are_dense() -> None:
    labels = np.zeros((40, 40, 40), np.uint16)
    labels[10:22, 5:35, 5:35] = 1

    assert plane_of_labels(labels, Geometry((40, 40, 40), np.diag([1.0, 3.0, 1.0, 1.0]))) == "coronal"


def test_plane_of_labels_is_the_scans_when_they_are_empty() -> None:
    labels = np.zeros((4, 4, 4), np.uint16)

    assert plane_of_labels(labels, Geometry((4, 4, 4), np.diag([1.0, 3.0, 1.0, 1.0]))) == "coronal"


@pytest.mark.parametrize(
    "affine",
    [np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([1.0, 1.0, 0.0, 1.0]), np.ones((4, 4))],
    ids=["zero", "nan", "flat", "parallel"],
)
def test_checked_geometry_refuses_axes_that_span_no_space(affine: NDArray[np.float64]) -> None:
    with pytest.raises(GeometryError, match=r"'a\.nii' span no space"):
        checked_geometry((2, 2, 2), affine, "a.nii")


def test_checked_geometry_accepts_tiny_voxels() -> None:
    affine = np.diag([1e-3, 1e-3, 1e-3, 1.0])

    assert checked_geometry((2, 2, 2), affine, "microscope.nii").spacing == pytest.approx((1e-3, 1e-3, 1e-3))
