from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from amsam_cli.methods.shape import Shape
from amsam_cli.preprocess import Placement
from amsam_cli.segmentation.components import Witness, tidy
from amsam_cli.volume import Geometry, LabelMap

ONE, MANY = (Shape(several=several) for several in (False, True))


def scattered() -> LabelMap:
    """Label 3: pieces of 64, 8 and 1 voxels; label 7: one piece of 8."""
    data = np.zeros((8, 12, 12), np.uint16)
    data[0:4, 0:4, 0:4] = 3
    data[0:2, 6:8, 6:8] = 3
    data[7, 11, 11] = 3
    data[5:7, 0:2, 8:10] = 7
    return LabelMap(data, Geometry(data.shape, np.eye(4)), {3: "three", 7: "seven"})


FRAME = Placement.of(Geometry((8, 12, 12), np.eye(4)), 64)
EVEN = Witness(lambda value, part: np.ones((part.stop - part.start, 12, 12), np.float32), FRAME)
"""Speaks for no piece more than for another of its size."""


def test_tidy_keeps_the_largest_piece_of_a_label_that_is_one():
    kept = tidy(scattered(), {3: ONE, 7: ONE}, MANY, {}, EVEN)

    assert int((kept.data == 3).sum()) == 64
    assert int((kept.data == 7).sum()) == 8


def test_tidy_leaves_out_only_specks_of_a_label_in_several_pieces():
    kept = tidy(scattered(), {3: MANY, 7: MANY}, MANY, {}, EVEN)

    assert int((kept.data == 3).sum()) == 64 + 8


def test_tidy_takes_the_probability_of_strays_too():
    labels = scattered()
    likely = np.where(labels.data == 3, 0.9, 0.0).astype(np.float16)

    kept = tidy(labels, {3: ONE, 7: ONE}, MANY, {3: likely}, EVEN)

    assert ((likely > 0) == (kept.data == 3)).all()


def test_tidy_leaves_its_input_and_empty_maps_alone():
    labels = scattered()
    before = labels.data.copy()
    empty = LabelMap(np.zeros_like(before), labels.geometry, {})

    tidy(labels, {3: ONE, 7: ONE}, MANY, {}, EVEN)

    np.testing.assert_array_equal(labels.data, before)
    assert not tidy(empty, {}, MANY, {}, EVEN).data.any()


def test_thread_of_single_voxels_is_one_piece():
    data = np.zeros((6, 12, 12), np.uint16)
    data[range(6), range(6), range(6)] = 1
    labels = LabelMap(data, Geometry(data.shape, np.eye(4)), {1: "one"})

    assert int(tidy(labels, {1: ONE}, MANY, {}, EVEN).data.sum()) == 6


def test_smaller_piece_that_is_sure_displaces_a_larger_half_believed_one():
    labels = scattered()
    sure = np.where(labels.data == 3, 1.0, -9.0).astype(np.float32)
    sure[0:2, 6:8, 6:8] = 9.0  # 8 voxels of 81 are more than 64 of 1
    labels.data[0:2, 6:9, 6:9] = 3  # a rival: a fifth of the largest, and more

    kept = tidy(labels, {3: ONE, 7: ONE}, MANY, {}, Witness(lambda value, part: sure[part], FRAME))

    assert int((kept.data == 3).sum()) == 18
    assert (kept.data == 3)[0, 6, 6]


def test_sure_speck_does_not_displace_the_organ():
    labels = scattered()
    sure = np.where(labels.data == 3, 1.0, -9.0).astype(np.float32)
    sure[0:2, 6:8, 6:8] = 9.0  # eight voxels, an eighth of the largest piece

    kept = tidy(labels, {3: ONE, 7: ONE}, MANY, {}, Witness(lambda value, part: sure[part], FRAME))

    assert int((kept.data == 3).sum()) == 64
    assert (kept.data == 3)[0, 0, 0]


def ring() -> LabelMap:
    """Label 1: a ring on each of three slices round 9 voxels, one of which is label 2 on the middle one."""
    data = np.zeros((3, 12, 12), np.uint16)
    data[:, 2:7, 2:7] = 1
    data[:, 3:6, 3:6] = 0
    data[1, 4, 4] = 2
    return LabelMap(data, Geometry(data.shape, np.eye(4)), {1: "one", 2: "two"})


def test_holes_are_filled_where_the_shots_show_none():
    labels, solid = ring(), Shape(hollow=False)

    kept = tidy(labels, {1: solid, 2: solid}, MANY, {}, EVEN)

    assert (kept.data[:, 2:7, 2:7] > 0).all()
    assert (kept.data == 2).sum() == 1
    assert (tidy(labels, {1: MANY, 2: MANY}, MANY, {}, EVEN).data == labels.data).all()


def test_what_the_labels_enclose_together_becomes_the_likeliest_of_them():
    labels = ring()
    odds = {1: np.full((3, 12, 12), -5, np.float32), 2: np.full((3, 12, 12), -1, np.float32)}
    likely = {1: np.full((3, 12, 12), 0.1, np.float16), 2: np.full((3, 12, 12), 0.3, np.float16)}
    witness = Witness(lambda value, part: odds[value][part], FRAME)

    kept = tidy(labels, {1: MANY, 2: MANY}, Shape(hollow=False), likely, witness)

    assert (kept.data[:, 3:6, 3:6] == 2).all()
    assert (kept.data[:, 2:7, 2:7] > 0).all()
    assert (kept.data[:, 7:] == 0).all()
    np.testing.assert_allclose(likely[2][0, 3:6, 3:6], 0.75, atol=1e-3)
    np.testing.assert_allclose(likely[1][0, 3:6, 3:6], 0.25, atol=1e-3)
    assert float(likely[2][0, 0, 0]) == pytest.approx(0.3, abs=1e-3)


def test_what_is_open_to_its_slice_is_no_hole():
    labels = ring()
    labels.data[:, 2, 4] = 0  # a gap in the ring
    solid = Shape(hollow=False)

    assert (tidy(labels, {1: solid, 2: solid}, MANY, {}, EVEN).data == labels.data).all()


def test_probabilities_follow_what_is_filled():
    labels, solid = ring(), Shape(hollow=False)
    one = np.where(labels.data == 1, 0.8, 0.1).astype(np.float16)
    two = np.where(labels.data == 2, 0.7, 0.2).astype(np.float16)

    kept = tidy(labels, {1: solid, 2: solid}, MANY, {1: one, 2: two}, EVEN)

    likeliest = np.argmax([1 - one - two, one, two], axis=0)
    np.testing.assert_array_equal(likeliest, kept.data)


def test_piece_where_the_shots_have_the_label_displaces_a_larger_one_elsewhere():
    labels = scattered()
    labels.data[0:2, 6:10, 6:10] = 3  # 32 voxels, beside 64 in the corner
    there = replace(ONE, row=8 / 12, column=8 / 12, spread=0.1)
    anywhere = replace(there, spread=2.0)

    assert (tidy(labels, {3: there, 7: ONE}, MANY, {}, EVEN).data == 3)[0, 8, 8]
    assert (tidy(labels, {3: anywhere, 7: ONE}, MANY, {}, EVEN).data == 3)[0, 0, 0]
