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


def test_tidy_keeps_the_largest_piece_of_a_label_that_is_one():
    kept = tidy(scattered(), {3: False, 7: False}, {})

    assert int((kept.data == 3).sum()) == 64
    assert int((kept.data == 7).sum()) == 8


def test_tidy_leaves_out_only_specks_of_a_label_in_several_pieces():
    kept = tidy(scattered(), {3: True, 7: True}, {})

    assert int((kept.data == 3).sum()) == 64 + 8


def test_tidy_takes_the_probability_of_strays_too():
    labels = scattered()
    likely = np.where(labels.data == 3, 0.9, 0.0).astype(np.float16)

    kept = tidy(labels, {3: False}, {3: likely})

    assert ((likely > 0) == (kept.data == 3)).all()


def test_tidy_leaves_its_input_and_empty_maps_alone():
    labels = scattered()
    before = labels.data.copy()
    empty = LabelMap(np.zeros_like(before), labels.geometry, {})

    tidy(labels, {3: False}, {})

    np.testing.assert_array_equal(labels.data, before)
    assert not tidy(empty, {}, {}).data.any()


def test_thread_of_single_voxels_is_one_piece():
    data = np.zeros((6, 6, 6), np.uint16)
    data[range(6), range(6), range(6)] = 1
    labels = LabelMap(data, Geometry(data.shape, np.eye(4)), {1: "one"})

    assert int(tidy(labels, {1: False}, {}).data.sum()) == 6
