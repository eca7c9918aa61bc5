from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import amsam_cli
from tests.cli.conftest import assert_two_lines


@pytest.fixture
def started(monkeypatch) -> dict[str, object]:
    """Return what a run was started with; nothing is trained."""
    found: dict[str, object] = {}

    def start(folder: Path, schedule: object, course: object, model: object) -> SimpleNamespace:
        found.update(folder=folder, schedule=schedule, course=course, model=model)
        return SimpleNamespace(step=schedule.steps)

    monkeypatch.setattr("amsam_cli.pretrain.training.Run.start", start)
    monkeypatch.setattr("amsam_cli.pretrain.training.pretrain", lambda run, **options: None)
    return found


def test_pretrain_starts_a_run_of_so_many_steps(amsam, started):
    ran = amsam("pretrain", "-o", "run", "--steps", 7, "--seed", 5, "--episodes", 3, "--json", "-d", "cpu")

    assert ran.json == {"output": "run", "steps": 7}
    schedule = started["schedule"]
    assert (schedule.steps, schedule.seed, schedule.episodes) == (7, 5, 3)
    assert started["model"].name == "builtin"
    assert schedule.small_until > 0


def test_pretrain_from_weights_is_gentler_than_from_nothing(amsam, started):
    amsam("pretrain", "-o", "run", "-d", "cpu")
    anew = started["schedule"]

    weights = Path(amsam_cli.__file__).parent / "weights" / "builtin.safetensors"
    amsam("pretrain", "-o", "run", "-d", "cpu", "-m", f"builtin={weights}")

    assert started["schedule"].learning_rate < anew.learning_rate
    assert started["schedule"].small_until == 0


def test_pretrain_takes_another_rate_and_share(amsam, started):
    weights = Path(amsam_cli.__file__).parent / "weights" / "builtin.safetensors"
    amsam("pretrain", "-o", "run", "-d", "cpu", "-m", f"builtin={weights}", "--learning-rate", 6e-4, "--keep", 0)

    assert (started["schedule"].learning_rate, started["schedule"].keep) == (6e-4, 0)


def test_pretrain_leaves_parts_out_and_shows_so_many(amsam, started):
    amsam("pretrain", "-o", "run", "-d", "cpu", "--supports", 1, "--without", "lesions", "--without", "ridge")

    assert started["schedule"].supports == (1,)
    assert started["schedule"].without == ("lesions", "ridge")
    assert started["schedule"].plan(0).without == ("lesions", "ridge")


def test_pretrain_as_published_learns_memory_and_decoder_from_a_folder(amsam, started):
    for name in ("images", "labels"):
        (Path("data/shapes") / name).mkdir(parents=True)
        for number in range(12):
            picture = np.zeros((40, 40), np.uint8)
            picture[10:30, 10 + number : 25 + number] = 1
            Image.fromarray(picture * (200 if name == "images" else 1)).save(f"data/shapes/{name}/p{number:02}.png")

    ran = amsam("pretrain", "-o", "run", "--preset", "fssam", "--data", "data", "-d", "cpu", "--image-size", 64)

    assert ran.code == 0
    assert started["course"].learning == ("memory_attention.", "memory_encoder.", "sam_mask_decoder.")
    assert started["schedule"].sides == ((64, 1.0),)


@pytest.mark.parametrize(
    "options",
    [
        ("-m", "builtin=none.safetensors"),
        ("--preset", "fssam"),
        ("--data", "nowhere"),
        ("--preset", "fssam", "--data", ".", "--without", "ridge"),
    ],
    ids=["weights that are not there", "published without data", "data that are not there", "less than published"],
)
def test_pretrain_refuses_what_it_cannot_use(amsam, options):
    ran = amsam("pretrain", "-o", "run", *options)

    assert ran.code in (1, 2)
    assert_two_lines(ran.err)
    assert not Path("run").exists()
