from __future__ import annotations

import pytest
import torch

from amsam_cli.segmentation.looks import Look
from amsam_cli.segmentation.tracking import Lane, agreement, key_slices, lanes_of


def look(areas: list[int], *, score: float = 0.9, presence: list[float] | None = None) -> Look:
    """A look at one label whose mask on each slice is so many of 16 pixels."""
    depth = len(areas)
    logits = torch.full((depth, 1, 4, 4), -10.0)
    for index, area in enumerate(areas):
        logits[index, 0].view(-1)[:area] = 10
    there = torch.tensor(presence or [1.0] * depth)[:, None]
    return Look(logits.half(), torch.full((depth, 1), score), there, torch.ones(depth, 1))


def test_key_slice_is_the_largest_where_looks_agree():
    assert key_slices([look([1, 4, 16, 4, 1]), look([1, 4, 16, 4, 1])]) == [[2]]


def test_key_slice_is_not_where_looks_disagree():
    alone = look([1, 8, 0, 4, 1])

    assert key_slices([alone, look([1, 8, 16, 4, 1])]) == [[1]]


def test_no_key_slice_where_the_label_is_absent():
    assert key_slices([look([4, 4], presence=[0.2, 0.3])]) == [[]]
    assert key_slices([look([0, 0])]) == [[]]


def test_key_slices_of_a_long_organ_stand_apart():
    (keys,) = key_slices([look([16] * 40)])

    assert len(keys) == 4
    assert min(abs(a - b) for a in keys for b in keys if a != b) >= 5


def test_lanes_lead_from_each_key_slice_to_the_next():
    lanes = lanes_of([[7, 2]], torch.ones(10, 1, dtype=torch.bool))

    assert lanes["forward"] == [Lane(0, 2, range(3, 7)), Lane(0, 7, range(8, 10))]
    assert lanes["backward"] == [Lane(0, 2, range(1, -1, -1)), Lane(0, 7, range(6, 2, -1))]


def test_lanes_stay_where_the_label_may_be():
    allowed = torch.zeros(10, 1, dtype=torch.bool)
    allowed[3:8] = True

    lanes = lanes_of([[5]], allowed)

    assert lanes["forward"] == [Lane(0, 5, range(6, 8))]
    assert lanes["backward"] == [Lane(0, 5, range(4, 2, -1))]


@pytest.mark.parametrize("side", [4, 8], ids=["same side", "another side"])
def test_agreement_is_one_for_equal_masks(side: int):
    first = torch.full((3, 2, 4, 4), -10.0)
    first[:, :, :2] = 10
    second = torch.full((3, 2, side, side), -10.0)
    second[:, :, : side // 2] = 10

    assert torch.equal(agreement(first, second), torch.ones(3, 2))
