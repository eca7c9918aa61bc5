from __future__ import annotations

import numpy as np

from amsam_cli.segmentation.components import tidy
from amsam_cli.volume import Geometry, LabelMap


def scattered() -> LabelMap:
    """Label 3: pieces of 64, 8 and 1 voxels; label 7: one piece of 8."""
    data = np.zeros((8, 12, 12), np.uint16)
    data[0:4, 0:4, 0:4] = 3
    data[0:2, 6:8, 6:8] = 3
    data[7, 11, 11] = 3
    data[5:7, 0:2, 8:10] = 7
    return LabelMap(data, Geometry(data.shape, np.eye(4)), {3: "three", 7: "seven"})


def even(value: int, part: slice) -> np.ndarray:
    """Return log-odds that speak for no piece more than for another of its size."""
    return np.ones((part.stop - part.start, 12, 12), np.float32)


def test_tidy_keeps_the_largest_piece_of_a_label_that_is_one():
    kept = tidy(scattered(), {3: False, 7: False}, {}, even)

    assert int((kept.data == 3).sum()) == 64
    assert int((kept.data == 7).sum()) == 8


def test_tidy_leaves_out_only_specks_of_a_label_in_several_pieces():
    kept = tidy(scattered(), {3: True, 7: True}, {}, even)

    assert int((kept.data == 3).sum()) == 64 + 8


def test_tidy_takes_the_probability_of_strays_too():
    labels = scattered()
    likely = np.where(labels.data == 3, 0.9, 0.0).astype(np.float16)

    kept = tidy(labels, {3: False}, {3: likely}, even)

    assert ((likely > 0) == (kept.data == 3)).all()


def test_tidy_leaves_its_input_and_empty_maps_alone():
    labels = scattered()
    before = labels.data.copy()
    empty = LabelMap(np.zeros_like(before), labels.geometry, {})

    tidy(labels, {3: False}, {}, even)

    np.testing.assert_array_equal(labels.data, before)
    assert not tidy(empty, {}, {}, even).data.any()


def test_thread_of_single_voxels_is_one_piece():
    data = np.zeros((6, 12, 12), np.uint16)
    data[range(6), range(6), range(6)] = 1
    labels = LabelMap(data, Geometry(data.shape, np.eye(4)), {1: "one"})

    assert int(tidy(labels, {1: False}, {}, even).data.sum()) == 6


def test_smaller_piece_that_is_sure_displaces_a_larger_half_believed_one():
    labels = scattered()
    sure = np.where(labels.data == 3, 1.0, -9.0).astype(np.float32)
    sure[0:2, 6:8, 6:8] = 9.0  # 8 voxels of 81 are more than 64 of 1
    labels.data[0:2, 6:9, 6:9] = 3  # a rival: a fifth of the largest, and more

    kept = tidy(labels, {3: False, 7: False}, {}, lambda value, part: sure[part])

    assert int((kept.data == 3).sum()) == 18
    assert (kept.data == 3)[0, 6, 6]


def test_sure_speck_does_not_displace_the_organ():
    labels = scattered()
    sure = np.where(labels.data == 3, 1.0, -9.0).astype(np.float32)
    sure[0:2, 6:8, 6:8] = 9.0  # eight voxels, an eighth of the largest piece

    kept = tidy(labels, {3: False}, {}, lambda value, part: sure[part])

    assert int((kept.data == 3).sum()) == 64
    assert (kept.data == 3)[0, 0, 0]
