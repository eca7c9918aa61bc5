from __future__ import annotations

import numpy as np
import pytest

from amsam_cli.adaptation import adapt
from amsam_cli.adapter import Adapter, AdapterConfig
from amsam_cli.segmentation import Segmentation
from amsam_cli.suggest import doubts, pick, suggest_slices
from amsam_cli.volume import Geometry, LabelMap
from tests.scans import BALL, OTHER, ball_scan, ball_shot
from tests.toy import ToyModel


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=AdapterConfig(steps=0, forecast=False))


def found(probability: np.ndarray, confidence: np.ndarray) -> Segmentation:
    """Return a segmentation of one label with these probabilities (D, H, W) and confidences (D,)."""
    shape = probability.shape
    labels = LabelMap(np.zeros(shape, np.uint16), Geometry(shape, np.eye(4)), {1: "organ"})
    return Segmentation(labels, {1: confidence.astype(np.float32)}, probabilities={1: probability.astype(np.float16)})


def test_doubt_is_higher_where_the_border_is_soft():
    probability = np.zeros((2, 8, 8))
    probability[0, :4], probability[1, :4] = 1.0, 0.6

    doubt = doubts(found(probability, np.ones(2)))[1]

    assert doubt[0] == pytest.approx(0, abs=1e-6)
    assert doubt[1] > 0.5


def test_doubt_is_higher_where_the_looks_disagree():
    probability = np.zeros((2, 8, 8))
    probability[:, :4] = 1.0

    doubt = doubts(found(probability, np.array([1.0, 0.2])))[1]

    assert doubt.argmax() == 1


def test_nothing_is_doubted_where_nothing_is_seen():
    doubt = doubts(found(np.zeros((3, 8, 8)), np.zeros(3)))

    assert pick(doubt, 3) == []


def test_pick_spreads_over_depth():
    doubt = {1: np.exp(-((np.arange(40) - 20) ** 2) / 200)}

    indices = [index for index, _ in pick(doubt, 3)]

    assert indices[0] == 20
    assert min(abs(a - b) for a in indices for b in indices if a != b) >= 5


def test_pick_names_the_label_in_doubt():
    doubt = {1: np.array([0.1, 0.0]), 2: np.array([0.4, 0.9])}

    assert [label for _, label in pick(doubt, 2)] == [2, 2]


def test_suggest_names_slices_of_the_scan(adapter: Adapter):
    volume, _ = ball_scan(7)

    suggestions = suggest_slices(volume, adapter, ToyModel(), count=3)

    assert 1 <= len(suggestions) <= 3
    assert len({each.index for each in suggestions}) == len(suggestions)
    assert all(each.origin == f"scan_7.nii.gz:{each.index}" for each in suggestions)
    assert all(each.label in (BALL, OTHER) and 0 < each.doubt <= 1 for each in suggestions)
