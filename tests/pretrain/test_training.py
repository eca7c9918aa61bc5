from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from amsam_cli.models.builtin import build_network
from amsam_cli.pretrain.training import Run, Schedule, draw, pretrain

TINY = Schedule(steps=4, small=64, large=64, episodes=1, warmup=2)


def test_schedule_starts_small_and_ends_large():
    schedule = Schedule(steps=100, small_until=0.5, small=128, large=256)

    assert schedule.plan(0).image_size == 128
    assert schedule.plan(99).image_size == 256


def test_schedule_warms_up_and_then_falls():
    schedule = Schedule(steps=100, warmup=10, learning_rate=1.0)

    rates = [schedule.rate(step) for step in range(100)]

    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[99] == pytest.approx(0.05, abs=0.01)


def test_draw_is_the_same_for_the_same_seed():
    plan = TINY.plan(0)

    assert torch.equal(draw(plan, 3).pixels, draw(plan, 3).pixels)


@pytest.mark.slow
def test_run_resumed_continues_as_if_never_stopped(tmp_path: Path):
    whole = Run.start(tmp_path / "whole", TINY)
    pretrain(whole, validate_every=2)

    stopped = Run.start(tmp_path / "stopped", TINY)
    for step in range(2):
        stopped.advance(draw(TINY.plan(step), TINY.seed * 7_919 + step))
    stopped.save()
    resumed = Run.start(tmp_path / "stopped", TINY)
    pretrain(resumed, validate_every=2)

    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "stopped"))
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-3) for name in first)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert any("val_match" in line for line in lines)


def test_run_starts_from_given_weights(tmp_path: Path):
    first = Run.start(tmp_path / "first", TINY)
    first.save()

    second = Run.start(tmp_path / "second", TINY, weights=tmp_path / "first" / "weights.safetensors")

    for name, value in second.model.network.state_dict().items():
        torch.testing.assert_close(value, first.average.state_dict()[name], atol=1e-3, rtol=1e-3)


def test_shipped_weights_stay_below_the_size_the_package_allows(tmp_path: Path):
    Run.start(tmp_path, TINY).save()

    assert (tmp_path / "weights.safetensors").stat().st_size < 24 * 2**20
    build_network().load_state_dict(
        {name: value.float() for name, value in load_file(tmp_path / "weights.safetensors").items()}, strict=True
    )
