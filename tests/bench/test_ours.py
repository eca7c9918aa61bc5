"""amsam in the benchmark goes the way of the commands, with any model."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from amsam_cli.adapter import AdapterConfig
from amsam_cli.bench import backbone, ours
from amsam_cli.bench.base import Query
from amsam_cli.bench.cases import Cases
from amsam_cli.bench.code import code_digest, code_of_results
from amsam_cli.bench.contenders import AVAILABLE_METHODS, load_method
from amsam_cli.bench.splits import DataSet
from amsam_cli.errors import InputError
from amsam_cli.metrics import dice
from amsam_cli.segmentation import Plan
from amsam_cli.volume import Window
from tests.conftest import save_balls
from tests.scans import BALL, ball_scan, ball_shot
from tests.toy import ToyModel


@pytest.fixture
def method(monkeypatch, tmp_path):
    """The method with the toy model, its weights in a file of three bytes."""
    weights = tmp_path / "toy.safetensors"
    weights.write_bytes(b"abc")
    monkeypatch.setattr(backbone.models, "load", lambda name, device: ToyModel())
    return ours.Amsam("amsam-in-context", model=f"builtin={weights}", config=AdapterConfig(steps=0))


def test_amsam_segments_on_the_grid_of_the_scan(method):
    volume, truth = ball_scan(5)

    found = method.fit([ball_shot(0), ball_shot(1)], seed=0).segment(Query(volume, truth))

    assert found.geometry.matches(truth.geometry)
    assert dice(found.mask(BALL), truth.mask(BALL)) > 0.3


def test_version_tells_the_weights_apart(method):
    assert method.version.endswith("-ba7816bf")  # sha256 of "abc"


def test_version_tells_code_apart_but_not_its_comments(method):
    source = 'def f():\n    """Say 1."""\n    return 1\n'

    assert code_of_results() in method.version
    assert code_digest(source) == code_digest(source.replace("Say 1.", "Say one.") + "# done\n")
    assert code_digest(source) != code_digest(source.replace("return 1", "return 2"))


def test_settings_are_those_of_the_adapter(method):
    assert method.settings["model"] == "builtin"
    assert method.settings["steps"] == 0
    assert method.settings["sees_the_reference"] is False
    assert "seed" not in method.settings


def test_true_boxes_are_those_of_the_reference():
    volume, truth = ball_scan(5)
    rows, columns = np.nonzero(truth.data[4] == BALL)

    found = ours.true_boxes(Query(volume, truth))(volume.slice(4))

    ((box, confidence),) = found[BALL]
    assert box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert confidence == 1


def test_true_boxes_follow_a_part_of_a_slice():
    volume, truth = ball_scan(5)
    window = Window(5, 7, 40, 40)

    whole = ours.true_boxes(Query(volume, truth))(volume.slice(4))
    part = ours.true_boxes(Query(volume, truth))(volume.crop(window).slice(4))

    moved = [edge + by for edge, by in zip(part[BALL][0][0], (7, 5, 7, 5), strict=True)]
    assert moved == list(whole[BALL][0][0])


def test_every_arm_of_the_ablation_has_a_configuration_of_its_own():
    arms = [name for name in AVAILABLE_METHODS if name.startswith("amsam")]

    settings = [str(sorted(load_method(name).settings.items())) for name in arms]

    assert len(set(settings)) == len(arms)


@pytest.mark.parametrize("mode", ["prior", "slice", "fssam", "track"])
def test_each_mode_is_a_method_and_segments_by_its_plan(monkeypatch, mode):
    asked = []
    monkeypatch.setattr(ours, "segment", lambda volume, adapter, model, plan: asked.append(plan) or Answer())
    monkeypatch.setattr(ours, "adapt", lambda *args, **kwargs: None)
    monkeypatch.setattr(ours.Amsam, "loaded", None)
    load_method(f"amsam-{mode}").fit([], seed=0).segment(Query(*ball_scan(5)))

    assert asked == [Plan.of(mode)]


def test_each_arm_of_the_memory_ablation_adds_one_part():
    arms = [load_method(f"amsam-memory{part}") for part in ("", "-ppg", "-imr", "-scma", "-tracks", "-zoom")]

    parts = [{axis for axis, is_on in arm.axes.items() if is_on} for arm in arms]

    assert [len(part) for part in parts] == [0, 1, 2, 3, 4, 5]
    assert all(before < after for before, after in itertools.pairwise(parts))
    assert all(arm.config.steps == 0 for arm in arms)


class Answer:
    labels = None


def test_arm_runs_for_the_steps_behind_its_name():
    arm = load_method("amsam-prompts@15")

    assert arm.name == "amsam-prompts@15"
    assert arm.settings == {**load_method("amsam-prompts").settings, "steps": 15}


@pytest.mark.parametrize("name", ["unet@15", "amsam-prompts@", "amsam-prompts@many"])
def test_steps_are_for_arms_of_our_own(name):
    with pytest.raises(InputError, match="no arm of amsam"):
        load_method(name)


def test_forecast_is_given_by_the_names_of_labels(method):
    fitted = replace(method, config=AdapterConfig(steps=0)).fit([ball_shot(0), ball_shot(1)], seed=0)

    assert fitted.forecast.keys() == {"ball", "other"}
    assert fitted.notes == ("learned from scan_0.nii.gz:4, scan_1.nii.gz:4",)


def test_another_model_is_another_column(tmp_path):
    weights = tmp_path / "trained.safetensors"
    weights.write_bytes(b"other weights")

    usual, other = (load_method("amsam-in-context", model=model) for model in (None, f"builtin={weights}"))

    assert other.settings["model"] == "builtin"
    assert other.version.rpartition("-")[0] == usual.version.rpartition("-")[0]
    assert other.version != usual.version


def test_masks_come_with_the_dice_to_expect(method):
    shots = [ball_shot(0), ball_shot(1)]
    fitted = replace(method, config=AdapterConfig(steps=0)).fit(shots, seed=0)

    found, expected = fitted.segment_and_expect(Query(shots[0].scan(), shots[0].labels))

    assert {found.names[value] for value in found.values()} == expected.keys()
    assert all(0 < dice <= 1 for dice in expected.values())


@pytest.mark.parametrize("choice", ["medoids", "suggested"])
def test_slices_are_asked_for_in_the_same_scans(method, choice, tmp_path):
    for seed in (0, 1):
        save_balls(tmp_path / "balls", seed)
    there = Cases(DataSet("balls", {1: "ball", 2: "other"}), tmp_path / "balls")
    drawn = ["case_0.nii.gz:1", "case_1.nii.gz:1"]

    asked = replace(method, choice=choice).slices(there, drawn)

    assert len(set(asked)) == 2
    assert asked != drawn
    assert {origin.partition(":")[0] for origin in asked} <= {"case_0.nii.gz", "case_1.nii.gz"}
    assert len(there.shots(asked)) == 2
