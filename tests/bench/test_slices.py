"""Slices go into a lesson and class scores come back on the scan's grid, the same way for every peer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from amsam_cli.bench.slices import Lesson
from tests.scans import BALL, NAMES, OTHER, ball_scan, ball_shot


@pytest.fixture(scope="module")
def lesson():
    return Lesson.of([ball_shot(0), ball_shot(1)], 48)


def test_lesson_has_a_class_for_every_label(lesson):
    assert lesson.names == NAMES
    assert lesson.pixels.shape == (2, 1, 48, 48)
    assert lesson.classes.unique().tolist() == [0, 1, 2]


def test_lesson_shows_classes_where_the_labels_are(lesson):
    labels = ball_shot(0).labels

    np.testing.assert_array_equal(lesson.classes[0, 0].numpy(), np.select([labels.mask(v)[0] for v in NAMES], [1, 2]))


def test_highest_score_becomes_the_label_of_the_scan(lesson):
    volume, truth = ball_scan(0)
    bright = lesson.pixels[0][lesson.classes[0] == 1].min()

    def score(pixels):
        is_ball = (pixels >= bright).float()
        return torch.cat([1 - is_ball, is_ball, torch.zeros_like(is_ball)], dim=1)

    found = lesson.read(volume, score)

    assert found.geometry.matches(truth.geometry)
    assert set(found.values()) == {BALL}
    assert (found.mask(BALL) == truth.mask(BALL)).mean() > 0.98


def test_classes_follow_ascending_label_values(lesson):
    volume, _ = ball_scan(0)

    found = lesson.read(volume, lambda pixels: torch.eye(3)[2].view(1, 3, 1, 1).expand(len(pixels), -1, 48, 48))

    assert found.values() == (OTHER,)
