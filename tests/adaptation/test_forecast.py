from __future__ import annotations

import pytest

from amsam_cli.adaptation.forecast import Forecast, _found, _gains


@pytest.mark.parametrize(
    ("gains", "helps"),
    [
        ((), True),  # nothing to compare with
        ((0.2, 0.1), True),
        ((0.2, 0.0), True),
        ((0.5, -0.1), False),  # of two patients one is harmed
        ((0.1, 0.05, -0.02, 0.08), True),
        ((0.4, -0.3, 0.3, -0.2), False),  # a coin toss
        ((-0.1, -0.1), False),
        ((0.0, 0.0), False),  # nothing was found with or without
        ((0.1,), True),
        ((0.0,), False),
    ],
)
def test_tuning_helps_where_its_gain_exceeds_its_standard_error(gains: tuple[float, ...], helps: bool):
    assert Forecast({1: 0.5}, {1: 0.5}, gains).helps is helps


def half(found: tuple[float, ...], gains: tuple[float, ...]) -> bool:
    return Forecast({1: 0.5}, {1: 0.5}, gains, found, is_halved=True).helps


def test_doubt_falls_to_tuning_where_its_refits_learned_from_half_of_the_shots():
    assert half((0.5, 0.5), (0.2, -0.1))
    assert not Forecast({1: 0.5}, {1: 0.5}, (0.2, -0.1)).helps
    assert half((0.3, 0.1), (0.0, 0.0))


@pytest.mark.parametrize("found", [(0.0, 0.0), (0.6, 0.0), (0.01, 0.6), ()])
def test_refits_that_found_nothing_undo_tuning(found: tuple[float, ...]):
    assert not half(found, (0.6, 0.0))


def test_half_of_the_shots_are_not_believed_that_tuning_by_all_harms():
    assert half((0.5, 0.4), (-0.3, -0.1))


def test_what_refits_found_is_a_mean_over_the_shots_and_labels_held_out():
    tuned = [(0, {1: 0.5, 2: 0.9}), (2, {1: 0.4}), (1, {}), (3, {})]

    assert _found(tuned, [[0, 2], [1, 3]]) == pytest.approx((0.6,))


def test_gains_are_means_over_the_shots_and_labels_of_each_patient():
    tuned = [(0, {1: 0.5, 2: 0.9}), (2, {1: 0.4}), (1, {1: 0.7})]
    plain = [(0, {1: 0.4, 2: 0.6}), (2, {1: 0.6}), (1, {1: 0.1})]

    assert _gains(tuned, plain, ["a", "a", "b"]) == pytest.approx(((0.1 + 0.3 + 0.6) / 3, -0.2))


def test_shots_of_one_patient_count_one_by_one():
    assert _gains([(0, {1: 0.5}), (1, {1: 0.5})], [(0, {1: 0.4}), (1, {1: 0.6})], ["a", "a"]) == pytest.approx(
        (0.1, -0.1)
    )
