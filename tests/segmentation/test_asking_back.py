from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from amsam_cli.adaptation import adapt
from amsam_cli.adapter import Adapter, AdapterConfig
from amsam_cli.models.base import silent
from amsam_cli.segmentation import Plan
from amsam_cli.segmentation.asking_back import ask_back
from amsam_cli.segmentation.scene import Place, Scene
from tests.scans import BALL, OTHER, ball_scan, ball_shot
from tests.toy import ToyModel


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    shots = [ball_shot(0), ball_shot(1), ball_shot(2, index=3)]
    return adapt(shots, ToyModel(), config=AdapterConfig(steps=0, tune="lora", forecast=False))


@pytest.fixture(scope="module")
def scene(adapter: Adapter) -> Scene:
    model = ToyModel()
    volume, _ = ball_scan(7)
    return Scene.of(volume, Place.whole(volume), adapter, (model, model), Plan(), silent)


def true_logits(scene: Scene) -> torch.Tensor:
    """Return the truth of scan 7 as logits (D, 2, s, s)."""
    _, truth = ball_scan(7)
    masks = torch.from_numpy((truth.data[:, None] == [[[BALL]], [[OTHER]]]).astype("float32"))
    small = torch.nn.functional.interpolate(masks, size=(16, 16), mode="area")
    return 20 * small - 10


def test_shots_are_found_again_from_a_right_mask_but_not_from_a_wrong_one(scene: Scene):
    right = true_logits(scene)
    wrong = right.flip(-2).roll(6, dims=-1)

    good, bad = ask_back(scene, right), ask_back(scene, wrong)

    assert good[0] > bad[0] + 0.2


def test_nothing_found_cannot_be_asked(scene: Scene):
    nothing = torch.full((9, 2, 16, 16), -10.0)

    assert ask_back(scene, nothing) == [None, None]


def test_adapter_without_a_mirror_asks_nothing(scene: Scene):
    blind = replace(scene, sight=replace(scene.sight, mirror=None))

    assert ask_back(blind, true_logits(scene)) == [None, None]


def test_mirror_holds_the_shots_and_no_pixels(adapter: Adapter):
    mirror = adapter.whole.mirror

    assert mirror.masks.shape == (3, 2, 16, 16)
    assert mirror.masks.dtype == torch.bool
    assert mirror.features.features.shape[0] == 3
    assert mirror.features.features.dtype == torch.float16
