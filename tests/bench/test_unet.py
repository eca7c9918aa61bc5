"""The U-Net learns from its slices, repeats itself, and predicts on the scan's grid."""

from __future__ import annotations

import numpy as np
import pytest

from amsam_cli.bench.base import Query
from amsam_cli.bench.contenders import load_method
from amsam_cli.bench.unet import ScratchUNet
from amsam_cli.metrics import dice
from tests.scans import BALL, NAMES, ball_scan, ball_shot

SMALL = ScratchUNet(image_size=32, steps=60, batch=2)


@pytest.fixture(scope="module")
def trained():
    return SMALL.fit([ball_shot(0), ball_shot(1)], seed=0)


def test_unet_finds_the_ball_of_another_patient(trained):
    volume, truth = ball_scan(5)

    found = trained.segment(Query(volume, truth))

    assert found.geometry.matches(truth.geometry)
    assert dice(found.mask(BALL)[4:5], truth.mask(BALL)[4:5]) > 0.7


def test_unet_names_its_labels(trained):
    volume, truth = ball_scan(5)

    found = trained.segment(Query(volume, truth))

    assert found.names == NAMES
    assert set(found.values()) <= set(NAMES)


def test_unet_is_the_same_for_the_same_seed():
    volume, truth = ball_scan(5)
    few = ScratchUNet(image_size=32, steps=3, batch=2)

    first, second = (few.fit([ball_shot(0)], seed=1).segment(Query(volume, truth)) for _ in range(2))

    np.testing.assert_array_equal(first.data, second.data)


def test_unet_reports_its_steps():
    seen = []

    ScratchUNet("unet", image_size=32, steps=2, batch=1).fit(
        [ball_shot(0)], seed=0, on_step=lambda *step: seen.append(step)
    )

    assert seen == [("unet", 1, 2), ("unet", 2, 2)]


@pytest.mark.parametrize(("name", "side"), [("unet", 256), ("unet-128", 128)])
def test_unet_is_known_by_name(name, side):
    method = load_method(name)

    assert method.name == name
    assert method.settings["image_size"] == side
