from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from amsam_cli.adaptation import adapt
from amsam_cli.adapter import Adapter, AdapterConfig
from amsam_cli.models.base import Decoded, silent
from amsam_cli.segmentation import Plan
from amsam_cli.segmentation.looks import Look
from amsam_cli.segmentation.scene import Place, Scene
from amsam_cli.segmentation.tracking import without_rivals
from tests.scans import ball_scan, ball_shot
from tests.toy import ToyModel


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    shots = [ball_shot(0), ball_shot(1), ball_shot(2, index=3)]
    return adapt(shots, ToyModel(), config=AdapterConfig(steps=0, tune="lora", forecast=False))


def scene(adapter: Adapter, plan: Plan) -> Scene:
    model, (volume, _) = ToyModel(), ball_scan(7)
    return Scene.of(volume, Place.whole(volume), adapter, (model, model), plan, silent)


def test_each_slice_remembers_the_shots_most_like_it(adapter: Adapter):
    few = scene(adapter, Plan(nearest_supports=2))
    slices, labels = torch.tensor([0, 8]), torch.tensor([0, 0])

    memories = few.supports(slices, labels)

    assert few.nearness.shape == (9, 3)
    assert ((few.nearness >= 0) & (few.nearness <= 1)).all()
    best = few.nearness[slices].argmax(dim=1)
    assert len(memories) == 2
    assert torch.equal(memories[0].map, adapter.whole.bank.maps[best, labels])


def test_shots_without_the_label_are_remembered_last(adapter: Adapter):
    few = scene(adapter, Plan(nearest_supports=2))
    present = torch.tensor([[True, True], [False, True], [True, True]])
    known = replace(few.sight.bank.prototypes, present=present)
    few = replace(few, sight=replace(few.sight, bank=replace(few.sight.bank, prototypes=known)))

    memories = few.supports(torch.tensor([4]), torch.tensor([0]))

    assert all(memory.there is None for memory in memories)


@pytest.mark.parametrize("most", [None, 3, 5])
def test_all_shots_are_remembered_where_there_are_no_more(adapter: Adapter, most: int | None):
    everything = scene(adapter, Plan(nearest_supports=most))

    memories = everything.supports(torch.tensor([4, 2]), torch.tensor([1, 0]))

    assert everything.nearness is None
    assert [torch.equal(memory.map, adapter.whole.bank.maps[k, [1, 0]]) for k, memory in enumerate(memories)] == [
        True
    ] * 3


def test_mask_enters_memory_without_what_another_label_has_a_better_claim_to():
    source = Look.blank(2, 2, 4)
    source.logits[1, 1, :, :2] = 5.0  # on slice 1 the other label has the left half
    source.logits[1, 0] = 9.0  # its own earlier mask is no rival
    logits = torch.full((1, 1, 4, 4), 3.0)
    logits[0, 0, 0, 0] = 7.0
    answer = Decoded(logits, torch.ones(1), torch.ones(1))

    kept = without_rivals(answer, source, torch.tensor([1]), torch.tensor([0])).logits[0, 0]

    assert (kept[:, 2:] == 3.0).all()
    assert (kept[1:, :2] == -10.0).all()
    assert kept[0, 0] == 7.0


def test_a_probe_gives_a_strict_and_a_lenient_prior(adapter: Adapter):
    found = scene(adapter, Plan()).priors()

    assert adapter.whole.probe is not None
    torch.testing.assert_close(found.foreground.float().square(), found.discriminative.float(), atol=2e-3, rtol=0)
    assert (found.foreground >= found.discriminative - 1e-3).all()
