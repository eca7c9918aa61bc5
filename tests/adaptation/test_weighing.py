from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from amsam_cli import adaptation
from amsam_cli.adaptation import adapt, weighing
from amsam_cli.adaptation.weighing import Evidence, weigh
from amsam_cli.adapter import AdapterConfig, Sight, Tune
from tests.scans import ball_shot
from tests.toy import ToyModel

SIDE = 16


def evidence(*, right: str) -> Evidence:
    """Return four frames with a square on them, which one look finds and the others take for its surroundings."""
    truth = torch.zeros(4, SIDE, SIDE)
    truth[:, 4:10, 5:12] = 1
    sure = 8 * (2 * truth - 1)
    return Evidence({kind: sure if kind == right else -sure for kind in ("prior", "slice", "support")}, truth)


def sight() -> Sight:
    return adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=AdapterConfig(steps=0, forecast=False)).whole


@pytest.mark.parametrize("right", ["prior", "slice", "support"])
def test_look_that_was_right_counts(right: str):
    found = weigh(sight(), [evidence(right=right)] * 2)

    assert [blend.share(right) > 0.95 for blend in found.blends] == [True, True]
    assert getattr(found.trust[0], right) == 1.0
    assert found.gauges[0].dice == 1.0


def test_label_without_evidence_counts_as_it_did():
    before = sight()

    after = weigh(before, [None, evidence(right="prior")])

    assert (after.trust[0], after.blends[0], after.gauges[0]) == (before.trust[0], before.blends[0], before.gauges[0])
    assert after.blends[1] != before.blends[1]


def test_single_shot_says_nothing_of_what_masks_are_worth():
    found = weigh(sight(), [evidence(right="prior")] * 2, is_held_out=False)

    assert found.blends[0].prior == found.blends[0].support
    assert found.gauges[0].dice is None


@pytest.mark.parametrize(("tune", "is_asked"), [("full", True), ("encoder", True), ("lora", False)])
def test_tuned_encoder_is_weighed_by_refits_that_had_not_seen_the_shots(
    monkeypatch: pytest.MonkeyPatch, tune: Tune, is_asked: bool
):
    asked: list[int] = []
    ahead = weighing.look_ahead

    def spy(lesson, adapter, sight, examples):
        held_out = {example.shot.origin for example in examples}
        assert not held_out & set(adapter.record.shots)
        asked.append(len(examples))
        return ahead(lesson, adapter, sight, examples)

    monkeypatch.setattr(adaptation.forecast, "look_ahead", spy)
    config = AdapterConfig(steps=2, tune=tune)
    shots = [ball_shot(seed) for seed in range(3)]

    adapter = adapt(shots, ToyModel(), config=config)
    alone = adapt(shots, ToyModel(), config=replace(config, forecast=False))

    assert sum(asked) == (len(shots) if is_asked else 0)
    if not adapter.changes.is_empty:
        assert (adapter.whole.trust != alone.whole.trust) is is_asked
