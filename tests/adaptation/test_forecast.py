from __future__ import annotations

import pytest

from amsam_cli.adaptation.forecast import Forecast, _gains


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


def test_doubt_falls_to_tuning_where_its_refits_were_handicapped():
    assert Forecast({1: 0.5}, {1: 0.5}, (0.2, -0.1), is_handicapped=True).helps
    assert not Forecast({1: 0.5}, {1: 0.5}, (0.2, -0.1)).helps
    assert Forecast({1: 0.3, 2: 0.0}, {1: 0.3, 2: 0.0}, (0.0, 0.0), is_handicapped=True).helps
    assert not Forecast({1: 0.0}, {1: 0.0}, (0.0, 0.0), is_handicapped=True).helps
    assert not Forecast({1: 0.01}, {1: 0.0}, (0.02, 0.0), is_handicapped=True).helps
    assert not Forecast({1: 0.5}, {1: 0.5}, (-0.2, -0.1), is_handicapped=True).helps


def test_gains_are_means_over_the_shots_and_labels_of_each_patient():
    tuned = [(0, {1: 0.5, 2: 0.9}), (2, {1: 0.4}), (1, {1: 0.7})]
    plain = [(0, {1: 0.4, 2: 0.6}), (2, {1: 0.6}), (1, {1: 0.1})]

    assert _gains(tuned, plain, ["a", "a", "b"]) == pytest.approx(((0.1 + 0.3 + 0.6) / 3, -0.2))


def test_shots_of_one_patient_count_one_by_one():
    assert _gains([(0, {1: 0.5}), (1, {1: 0.5})], [(0, {1: 0.4}), (1, {1: 0.6})], ["a", "a"]) == pytest.approx(
        (0.1, -0.1)
    )
