from __future__ import annotations

import itertools

import numpy as np
import pytest

from amsam_cli.volume import AxisOrder, Geometry, LabelMap, Volume, Window

OBLIQUE = np.array(
    [[0.1, -0.9, 0.2, 10.0], [0.3, 0.2, 1.1, -20.0], [4.0, 0.1, -0.3, 30.0], [0.0, 0.0, 0.0, 1.0]]
)  # (d, h, w) -> RAS mm
ORDERS = [
    AxisOrder(axes, flips)
    for axes in itertools.permutations((0, 1, 2))
    for flips in itertools.product((False, True), repeat=3)
]


def test_geometry_spacing_is_the_length_of_the_affine_columns():
    geometry = Geometry((2, 2, 2), np.array([[0, 0, 3, 0], [0, 4, 0, 0], [5, 0, 4, 0], [0, 0, 0, 1.0]]))

    assert geometry.spacing == (5.0, 4.0, 5.0)


def test_geometry_refuses_an_affine_of_another_shape():
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        Geometry((1, 1, 1), np.eye(3))


def test_geometry_matches_itself_but_not_a_grid_half_a_voxel_away():
    geometry = Geometry((3, 4, 5), OBLIQUE)
    moved = OBLIQUE.copy()
    moved[0, 3] += 0.5

    assert geometry.matches(Geometry((3, 4, 5), OBLIQUE))
    assert not geometry.matches(Geometry((3, 4, 5), moved))


def test_geometry_part_keeps_its_place_in_space():
    geometry = Geometry((9, 4, 5), OBLIQUE)

    part = geometry.part(3, 6)

    assert part.shape == (3, 4, 5)
    np.testing.assert_allclose(part.affine @ [0, 1, 2, 1], geometry.affine @ [3, 1, 2, 1])


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (2, 2), (0, 10)])
def test_geometry_part_refuses_slices_that_are_not_there(first: int, last: int):
    with pytest.raises(IndexError, match="of a volume of 9"):
        Geometry((9, 4, 5), OBLIQUE).part(first, last)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_axis_order_undo_is_the_inverse_of_apply(order: AxisOrder):
    stored = np.arange(2 * 3 * 4).reshape(2, 3, 4)

    back = order.undo(order.apply(stored))

    np.testing.assert_array_equal(back, stored)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_axis_order_keeps_every_voxel_at_its_place_in_space(order: AxisOrder):
    stored = Geometry((2, 3, 4), OBLIQUE)
    index = np.stack(np.indices(stored.shape), axis=-1).reshape(-1, 3)
    world = index @ OBLIQUE[:3, :3].T + OBLIQUE[:3, 3]

    moved = order.apply_to(stored)

    for axis in range(3):
        places = order.apply(world[:, axis].reshape(stored.shape))
        d, h, w = (n // 2 for n in moved.shape)
        assert places[d, h, w] == pytest.approx((moved.affine @ [d, h, w, 1])[axis])
        assert places[0, 0, 0] == pytest.approx(moved.affine[axis, 3])


def test_axis_order_gives_the_files_own_index_of_a_flipped_slice():
    assert AxisOrder(flips=(True, False, False)).stored_index(2, 10) == 7
    assert AxisOrder().stored_index(2, 10) == 2


def test_volume_refuses_data_that_does_not_lie_on_its_grid():
    with pytest.raises(ValueError, match="does not lie"):
        Volume(np.zeros((1, 2, 3, 4), np.float32), Geometry((2, 3, 5), np.eye(4)), (0, 1))


def test_volume_slice_remembers_the_range_of_the_whole_scan():
    data = np.zeros((1, 3, 2, 2), np.float32)
    data[0, 0] = 7

    part = Volume(data, Geometry((3, 2, 2), np.eye(4)), (0, 7)).slice(1)

    assert part.data.max() == 0
    assert part.range == (0, 7)


def test_label_map_values_leave_out_background():
    labels = LabelMap(np.array([[[0, 3, 3, 1]]], np.uint16), Geometry((1, 1, 4), np.eye(4)))

    assert labels.values() == (1, 3)
    assert labels.mask(3).sum() == 2


def test_crop_keeps_voxels_at_their_places():
    geometry = Geometry((1, 4, 5), np.diag([3.0, 2.0, 1.0, 1.0]))
    data = np.arange(20).reshape(1, 4, 5)
    window = Window(top=1, left=2, height=2, width=3)

    part = Volume(data.astype(np.float32)[None], geometry, (0, 19)).crop(window)
    labels = LabelMap(data.astype(np.uint16), geometry, {7: "seven"}).crop(window)

    np.testing.assert_array_equal(part.data[0, 0], [[7, 8, 9], [12, 13, 14]])
    np.testing.assert_array_equal(labels.data[0], part.data[0, 0])
    np.testing.assert_array_equal(part.geometry.affine[:3, 3], [0, 2, 2])
    assert part.range == (0, 19)
    assert labels.names == {7: "seven"}
