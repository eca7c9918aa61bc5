from __future__ import annotations

import pytest
import torch

from amsam_cli.bench.propagation import Official, Trial, carry, propagation_works, weights
from amsam_cli.bench.workloads import works_of
from amsam_cli.methods.losses import hard_dice


@pytest.mark.slow
def test_driver_finds_the_masks_that_the_official_predictor_finds():
    # Sixteen slices: from there on the predictor codes distances as it does in longer volumes.
    trial, model = Trial(slices=16, labels=2, image_size=64), weights(64)

    ours, official = carry(model, trial), Official.of(model).carry(trial)

    assert official.any()
    assert float(hard_dice(ours.flatten(0, 1), official.flatten(0, 1)).min()) >= 0.999


def test_driver_stays_within_the_extents_it_is_given():
    trial = Trial(slices=6, labels=2, image_size=64, partial=True)

    found = carry(weights(64), trial)

    for label in range(2):
        first, last = trial.extent(label)
        outside = torch.ones(6, dtype=torch.bool)
        outside[first : last + 1] = False
        assert not found[outside, label].any()


def test_every_number_of_labels_is_a_group_that_begins_with_the_predictor():
    works = propagation_works(slices=2, labels=(1, 3), image_size=64)

    assert len({work.group for work in works}) == 2
    assert [works[0].name, works[4].name] == ["SAM2VideoPredictor"] * 2


@pytest.mark.parametrize("gains", [True, False])
def test_bfloat16_is_timed_where_the_processor_gains_by_it(monkeypatch, gains):
    monkeypatch.setattr("amsam_cli.models.precision.gains_by_bfloat16", lambda device: gains)

    groups = {work.group for work in works_of(["propagation"])}

    assert {group.rpartition(" ")[2] for group in groups} == ({"fp32", "bf16"} if gains else {"fp32"})
