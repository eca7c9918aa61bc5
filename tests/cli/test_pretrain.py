from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from tests.cli.conftest import assert_two_lines


def test_pretrain_starts_a_run_of_so_many_steps(amsam, monkeypatch):
    started: dict[str, object] = {}

    def start(folder: Path, schedule: object, **options: object) -> SimpleNamespace:
        started.update(folder=folder, schedule=schedule, **options)
        return SimpleNamespace(step=schedule.steps)

    monkeypatch.setattr("amsam_cli.pretrain.training.Run.start", start)
    monkeypatch.setattr("amsam_cli.pretrain.training.pretrain", lambda run, **options: None)

    ran = amsam("pretrain", "-o", "run", "--steps", 7, "--seed", 5, "--json", "-d", "cpu")

    assert ran.json == {"output": "run", "steps": 7}
    assert (started["schedule"].steps, started["schedule"].seed, started["device"]) == (7, 5, "cpu")


def test_pretrain_refuses_weights_that_are_not_there(amsam):
    ran = amsam("pretrain", "-o", "run", "--weights", "none.safetensors")

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert not Path("run").exists()
