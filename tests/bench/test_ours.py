"""amsam in the benchmark goes the way of the commands, with any model."""

from __future__ import annotations

import pytest

from amsam_cli.bench import ours
from amsam_cli.bench.base import Query
from amsam_cli.metrics import dice
from tests.scans import BALL, ball_scan, ball_shot
from tests.toy import ToyModel


@pytest.fixture
def method(monkeypatch, tmp_path):
    """The method with the toy model, its weights in a file of three bytes."""
    weights = tmp_path / "toy.safetensors"
    weights.write_bytes(b"abc")
    monkeypatch.setattr(ours.models, "load", lambda name, device: ToyModel())
    return ours.Amsam("amsam-in-context", model=f"builtin={weights}", steps=0)


def test_amsam_segments_on_the_grid_of_the_scan(method):
    volume, truth = ball_scan(5)

    found = method.fit([ball_shot(0), ball_shot(1)], seed=0).segment(Query(volume, truth))

    assert found.geometry.matches(truth.geometry)
    assert dice(found.mask(BALL), truth.mask(BALL)) > 0.3


def test_version_tells_the_weights_apart(method):
    assert method.version.endswith("-ba7816bf")  # sha256 of "abc"


def test_settings_are_those_of_the_adapter(method):
    assert method.settings == {
        "model": "builtin",
        "rank": 4,
        "steps": 0,
        "learning_rate": None,
        "forecast": False,
    }
