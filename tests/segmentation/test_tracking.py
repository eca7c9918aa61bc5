from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from amsam_cli.adaptation import adapt
from amsam_cli.adapter import AdapterConfig
from amsam_cli.methods.pseudo_prompt import Priors
from amsam_cli.models.base import silent
from amsam_cli.segmentation import Plan
from amsam_cli.segmentation.looks import Look
from amsam_cli.segmentation.scene import Place, Scene
from amsam_cli.segmentation.tracking import PATIENCE, Lane, agreement, key_slices, lanes_of, track
from amsam_cli.volume import Geometry, Volume
from tests.scans import ball_shot
from tests.toy import ToyModel


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


class Watchful(ToyModel):
    """A model that says the object is where the frame is bright, and nowhere else."""

    def recall(self, embedding, *args, **kwargs):
        answer = super().recall(embedding, *args, **kwargs)
        dark = self.encode(torch.zeros(1, 3, self.image_size, self.image_size)).features
        is_dark = (embedding.features - dark).abs().amax(dim=(1, 2, 3)) < 1e-2
        return replace(answer, presence=torch.where(is_dark, -5.0, 5.0), score=torch.ones(len(embedding)))


@pytest.mark.parametrize(("is_careful", "followed"), [(True, PATIENCE), (False, 9)], ids=["careful", "careless"])
def test_label_is_followed_only_a_little_past_its_end(is_careful: bool, followed: int):
    model = Watchful()
    adapter = adapt([ball_shot(0), ball_shot(1)], model, config=AdapterConfig(steps=0, tune="lora", forecast=False))
    data = np.zeros((1, 15, 48, 48), dtype=np.float32)
    data[:, :6] = np.random.default_rng(0).uniform(50, 100, (1, 6, 48, 48))
    volume = Volume(data, Geometry((15, 48, 48), np.eye(4)), (0.0, 100.0))
    plan = Plan(is_careful=is_careful)
    scene = Scene.of(volume, Place.whole(volume), adapter, (model, model), plan, silent)
    source = Look.blank(15, 2, 16)
    source.logits[3, 0, 4:12, 4:12] = 8.0

    looks = track(scene, source, [[3], []], Priors(torch.zeros(0), torch.zeros(0)), plan)

    seen = looks["forward"].score[:, 0] > 0
    assert seen[4 : 6 + followed].all()
    assert not seen[6 + followed :].any()
