from __future__ import annotations

import numpy as np
import pytest

from amsam_cli.errors import GeometryError
from amsam_cli.io.regrid import joined, place
from amsam_cli.volume import Geometry
from tests.io.dicom.conftest import oblique


def grid(shape: tuple[int, int, int], spacing: float = 1.0, origin: tuple[float, ...] = (0, 0, 0)) -> Geometry:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = origin
    return Geometry(shape, affine)


def ball(size: int, radius: float) -> np.ndarray:
    """Return a ball of label 4 in the middle of a cube."""
    away = np.indices((size, size, size)) - (size - 1) / 2
    return np.where((away**2).sum(axis=0) <= radius**2, 4, 0).astype(np.uint16)


def test_labels_on_the_grid_of_their_image_are_left_alone() -> None:
    labels = ball(6, 2)

    placed = place(labels, grid((6, 6, 6)), grid((6, 6, 6)), name="a.nii")

    assert np.array_equal(placed.values, labels)
    assert (placed.is_exact, placed.remark) == (True, "")


def test_labels_stored_another_way_round_are_turned_in_silence() -> None:
    labels = np.zeros((2, 3, 4), np.uint16)
    labels[0, 1, 3] = 5
    affine = np.array([[0, -1, 0, 2], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])  # (i, j, k) -> (2 - j, k, i)

    placed = place(labels, Geometry((2, 3, 4), affine), grid((3, 4, 2)), name="a.nii")

    assert np.argwhere(placed.values).tolist() == [[1, 3, 0]]
    assert placed.remark == ""


def test_labels_of_a_part_of_the_image_are_filled_up_and_said() -> None:
    labels = np.ones((6, 6, 2), np.uint16)

    placed = place(labels, grid((6, 6, 2), origin=(0, 0, 3)), grid((6, 6, 6)), name="a.nii")

    assert placed.values.any(axis=(0, 1)).tolist() == [False, False, False, True, True, False]
    assert placed.is_exact
    assert "covers another part of space" in placed.remark


def test_labels_of_another_spacing_are_sampled_at_the_nearest_voxel_and_said() -> None:
    fine, coarse = ball(21, 8), grid((7, 7, 7), 3.0, (1, 1, 1))

    placed = place(fine, grid((21, 21, 21)), coarse, name="a.nii")

    assert np.array_equal(placed.values, fine[1::3, 1::3, 1::3])
    assert "the nearest voxel was taken" in placed.remark


def test_turned_labels_keep_their_place_and_volume() -> None:
    turned = np.eye(4)
    turned[:3, :3] = oblique(30, 20)
    turned[:3, 3] = np.array([10, 10, 10]) - turned[:3, :3] @ [10, 10, 10]

    placed = place(ball(21, 8), Geometry((21, 21, 21), turned), grid((21, 21, 21)), name="a.nii")

    assert np.argwhere(placed.values).mean(axis=0) == pytest.approx([10, 10, 10], abs=0.1)
    assert np.count_nonzero(placed.values) == pytest.approx(np.count_nonzero(ball(21, 8)), rel=0.02)


def test_labels_cut_off_by_the_image_are_said() -> None:
    placed = place(np.ones((4, 4, 4), np.uint16), grid((4, 4, 4)), grid((2, 4, 4)), name="a.nii")

    assert "50 % of what is labelled lies outside" in placed.remark


def test_labels_that_do_not_meet_their_image_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"Mask 'a\.nii' and its image do not overlap"):
        place(ball(6, 2), grid((6, 6, 6)), grid((6, 6, 6), origin=(100, 0, 0)), name="a.nii")


@pytest.mark.parametrize("other", [Geometry.of_picture(5, 4), Geometry((1, 4, 4), np.eye(4))], ids=["size", "unit"])
def test_pictures_are_never_resampled(other: Geometry) -> None:
    with pytest.raises(GeometryError, match=r"Mask 'a\.png' has shape \(1, 4, 4\) in px but its image has"):
        place(np.ones((1, 4, 4), np.uint16), Geometry.of_picture(4, 4), other, name="a.png")


def test_joined_grid_holds_both_and_keeps_the_lattice() -> None:
    both = joined(grid((2, 2, 2)), grid((1, 1, 2), origin=(-3, 0, 2)))

    assert both.shape == (5, 2, 4)
    assert both.affine[:3, 3].tolist() == [-3, 0, 0]
