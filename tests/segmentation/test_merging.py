from __future__ import annotations

import numpy as np
import pytest
import torch

from amsam_cli.preprocess import Placement
from amsam_cli.segmentation.merging import Found, log_odds, merge
from amsam_cli.segmentation.scene import Place
from amsam_cli.volume import Geometry, Volume, Window


def volume(depth: int = 3, side: int = 16) -> Volume:
    return Volume(np.zeros((1, depth, side, side), np.float32), Geometry((depth, side, side), np.eye(4)), (0, 0))


def found(logits: torch.Tensor, place: Place, scan: Volume) -> Found:
    return Found(logits, place, Placement.of(place.of(scan).geometry, 64))


def test_merge_takes_the_highest_label_above_zero():
    logits = torch.full((3, 2, 16, 16), -5.0)
    logits[:, 0] = 1.0
    logits[1, 1] = 2.0

    labels, _ = merge([found(logits, Place.whole(volume()), volume())], volume(), {3: "three", 8: "eight"})

    assert [int(part.max()) for part in labels.data] == [3, 8, 3]
    assert labels.names == {3: "three", 8: "eight"}


def test_merge_puts_a_zoomed_pass_in_its_place_and_nothing_elsewhere():
    scan = volume()
    place = Place(1, 1, Window(4, 8, 6, 6))

    labels, _ = merge([found(torch.full((1, 1, 16, 16), 3.0), place, scan)], scan, {1: "one"})

    expected = np.zeros((3, 16, 16))
    expected[1, 4:10, 8:14] = 1
    np.testing.assert_array_equal(labels.data, expected)


def test_merge_does_not_depend_on_the_size_of_slabs(monkeypatch):
    scan = volume(depth=7)
    logits = torch.randn(7, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    whole, _ = merge([found(logits, Place.whole(scan), scan)], scan, {1: "one", 2: "two"})

    monkeypatch.setattr("amsam_cli.segmentation.merging.SLAB_MIB", 0)
    apart, _ = merge([found(logits, Place.whole(scan), scan)], scan, {1: "one", 2: "two"})

    np.testing.assert_array_equal(whole.data, apart.data)


@pytest.mark.parametrize(("logit", "value"), [(3.0, 1), (-3.0, 0)])
def test_closer_pass_decides_where_it_looked_and_leaves_what_lies_outside(logit: float, value: int):
    scan = volume()
    first = torch.full((3, 1, 16, 16), -3.0)
    first[:, :, 8:] = 9.0  # rows of the frame that lie partly outside the closer place
    closer = found(torch.full((1, 1, 16, 16), logit), Place(1, 1, Window(4, 8, 6, 6)), scan)

    labels, _ = merge([found(first, Place.whole(scan), scan), closer], scan, {1: "one"})

    expected = np.zeros((3, 16, 16))
    expected[:, 8:] = 1
    expected[1, 4:10, 8:14] = value
    np.testing.assert_array_equal(labels.data, expected)


def test_what_the_closer_pass_holds_to_be_absent_is_absent():
    scan = volume()
    first, closer = torch.full((3, 1, 16, 16), 9.0), torch.full((1, 1, 16, 16), -10.0)

    labels, _ = merge([found(first, Place.whole(scan), scan), found(closer, Place(1, 1, None), scan)], scan, {1: "one"})

    assert [int(part.max()) for part in labels.data] == [1, 0, 1]


def test_first_pass_counts_where_the_closer_one_wavers():
    scan = volume()
    place = Place(0, 3, Window(0, 0, 16, 16))
    first = torch.full((3, 1, 16, 16), -5.0)
    first[1] = 5.0
    wavering = torch.full((3, 1, 16, 16), -0.2)

    labels, _ = merge([found(first, Place.whole(scan), scan), found(wavering, place, scan)], scan, {1: "one"})

    assert [int(part.max()) for part in labels.data] == [0, 1, 0]


def test_log_odds_are_those_by_which_a_label_was_found():
    scan = volume(depth=5)
    logits = torch.randn(5, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    place = Place(1, 3, Window(2, 2, 12, 12))
    closer = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    both = [found(logits, Place.whole(scan), scan), found(closer, place, scan)]
    labels, _ = merge(both, scan, {1: "one", 2: "two"})

    one, two = (log_odds(both, scan, label, slice(1, 4)) for label in (0, 1))

    assert one.shape == (3, 16, 16)
    np.testing.assert_array_equal(labels.data[1:4] == 2, (two > 0) & (two > one))
