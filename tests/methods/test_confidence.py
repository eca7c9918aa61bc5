from __future__ import annotations

import math

import pytest
import torch

from amsam_cli.methods.confidence import Gauge, expected_dice, own_estimate


def test_own_estimate_is_the_dice_of_right_probabilities():
    logits = torch.full((1, 1, 2, 2), -20.0)
    logits[0, 0, 0] = math.log(0.8 / 0.2)  # two of four pixels, each there with probability 0.8

    assert own_estimate(logits).item() == pytest.approx(2 * 1.6 / (1.6 + 2), abs=1e-4)


def test_own_estimate_keeps_the_axes_before_the_slices():
    assert own_estimate(torch.zeros(5, 3, 8, 8)).shape == (5, 3)


def test_expected_dice_is_half_the_masks_own_and_half_what_the_shots_had():
    expected = expected_dice(0.85, Gauge(0.85, 0.4), forecast=None, reverse=None)

    assert expected == pytest.approx((0.85**4 + 0.4) / 2)


def test_expected_dice_listens_to_all_witnesses_alike():
    expected = expected_dice(0.9, Gauge(0.9, 0.6), forecast=0.3, reverse=0.0)

    assert expected == pytest.approx((0.9**4 + 0.3) / 2)


def test_expected_dice_rises_with_the_masks_own_estimate():
    gauge = Gauge(0.8, 0.5)

    low, high = (expected_dice(own, gauge, forecast=0.4, reverse=0.4) for own in (0.6, 0.9))

    assert low < high


def test_expected_dice_never_exceeds_one():
    assert expected_dice(1.0, Gauge(0.1, 0.9), forecast=None, reverse=None) == 1


def test_one_shot_can_only_be_asked_back_and_is_believed_less():
    assert expected_dice(0.9, Gauge(0.9), forecast=None, reverse=0.5) == pytest.approx((0.9**4 + 0.5**4) / 2)


def test_expected_dice_is_the_masks_own_where_nothing_else_is_known():
    assert expected_dice(0.7, None, forecast=None, reverse=None) == pytest.approx(0.7**4)
