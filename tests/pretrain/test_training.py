from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from amsam_cli.errors import InputError
from amsam_cli.models.builtin import build_network
from amsam_cli.models.sam2 import Sam2
from amsam_cli.pretrain.classes import Classes
from amsam_cli.pretrain.parts import Part
from amsam_cli.pretrain.training import PUBLISHED, Run, Schedule, draw, own_course, pretrain, published_course

TINY = Schedule(steps=4, sides=((64, 1.0),), episodes=1, warmup=2)


def network(seed: int = 0) -> Sam2:
    torch.manual_seed(seed)
    return Sam2(build_network(), "builtin", 64)


def start(folder: Path, schedule: Schedule = TINY) -> Run:
    return Run.start(folder, schedule, own_course(), network())


def test_schedule_starts_small_and_then_takes_every_side():
    schedule = Schedule(steps=100, small_until=0.5, sides=((128, 0.5), (256, 0.5)))

    sides = [schedule.plan(step).image_size for step in range(100)]

    assert set(sides[:50]) == {128}
    assert set(sides[50:]) == {128, 256}


def test_schedule_draws_fewer_episodes_the_more_they_cost():
    schedule = Schedule(sides=((256, 1.0),), episodes=16, small_until=0.0)
    small = Schedule(sides=((128, 1.0),), episodes=16)

    assert schedule.plan(0).supports == small.plan(0).supports
    assert schedule.plan(0).episodes < small.plan(0).episodes


def test_schedule_warms_up_and_then_falls():
    schedule = Schedule(steps=100, warmup=10, learning_rate=1.0)

    rates = [schedule.rate(step) for step in range(100)]

    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[99] == pytest.approx(0.05, abs=0.01)


def test_schedule_without_a_part_never_plans_it():
    usual = [Schedule().plan(step) for step in range(40)]
    plans = [Schedule(without=tuple(Part)).plan(step) for step in range(40)]

    assert any(plan.consecutive for plan in usual)
    assert all(plan.without == () for plan in usual)
    assert not any(plan.consecutive for plan in plans)
    assert all(plan.without == tuple(Part) for plan in plans)
    assert [plan.supports for plan in plans] == [plan.supports for plan in usual]


def test_validation_asks_for_what_training_leaves_out(tmp_path: Path):
    runs = [
        start(tmp_path / f"{len(without)}", replace(TINY, without=without))
        for without in ((), (Part.RIDGE, Part.GUESSES))
    ]

    usual, less = (run.validate() for run in runs)
    losses = [run.advance(draw(run.schedule.plan(0), 0))["loss"] for run in runs]

    assert usual == less
    assert losses[1] < losses[0]


def test_published_schedule_falls_as_a_polynomial_from_its_first_step():
    schedule = replace(PUBLISHED, steps=100)

    assert schedule.rate(0) == 1e-3
    assert schedule.rate(50) == pytest.approx(1e-3 * 0.5**0.9)


def test_draw_is_the_same_for_the_same_seed():
    plan = TINY.plan(0)

    assert torch.equal(draw(plan, 3).pixels, draw(plan, 3).pixels)


@pytest.mark.slow
def test_run_resumed_continues_as_if_never_stopped(tmp_path: Path):
    whole = start(tmp_path / "whole")
    pretrain(whole, validate_every=2)

    stopped = start(tmp_path / "stopped")
    for step in range(2):
        stopped.advance(draw(TINY.plan(step), TINY.seed * 7_919 + step))
    stopped.save()
    resumed = start(tmp_path / "stopped")
    pretrain(resumed, validate_every=2)

    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "stopped"))
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-3) for name in first)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert any("val_match" in line for line in lines)


def test_run_by_other_optimisers_is_refused_and_left_as_it_is(tmp_path: Path):
    start(tmp_path).save()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["optimiser"] = state.pop("optimisers")[0]
    torch.save(state, tmp_path / "state.pt")
    before = (tmp_path / "state.pt").read_bytes()

    with pytest.raises(InputError, match="other optimisers"):
        start(tmp_path)

    assert (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.slow
def test_published_course_changes_memory_and_decoder_alone(tmp_path: Path, pictures: Path):
    course = published_course(Classes(pictures), Classes(pictures, held_out=True))
    schedule = replace(PUBLISHED, steps=2, sides=((64, 1.0),))
    run = Run.start(tmp_path / "run", schedule, course, network())
    before = {name: value.clone() for name, value in run.model.network.state_dict().items()}

    pretrain(run)

    after = run.model.network.state_dict()
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"memory_attention", "memory_encoder", "sam_mask_decoder"}


def test_result_keeps_its_share_of_the_weights_it_began_with(tmp_path: Path):
    schedule = replace(TINY, keep=0.5)
    run = start(tmp_path, schedule)
    before = {name: value.clone() for name, value in run.average.state_dict().items()}
    for parameter in run.average.parameters():
        parameter.data += 1

    run.save()
    resumed = Run.start(tmp_path, schedule, own_course(), network(seed=1))

    for made in (run.result(), resumed.result()):
        assert all(torch.allclose(made[name], before[name] + 0.5) for name, _ in run.average.named_parameters())


def test_saved_run_fits_a_network_and_the_size_the_package_allows(tmp_path: Path):
    start(tmp_path).save()

    assert (tmp_path / "weights.safetensors").stat().st_size < 24 * 2**20
    state = {name: value.float() for name, value in load_file(tmp_path / "weights.safetensors").items()}
    build_network().load_state_dict(state, strict=True)
