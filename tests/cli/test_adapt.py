from __future__ import annotations

from pathlib import Path

import pytest
import typer

from amsam_cli.cli import adapt
from tests.cli.conftest import assert_two_lines


def test_adapt_leaves_an_adapter_and_says_what_it_learned(amsam, toy, shots_folder):
    ran = amsam("adapt", "--shots", 3, shots_folder, "--steps", 2)

    assert ran.code == 0, ran.err
    assert "case_0.nii.gz:4" in ran.out
    assert "Forecast Dice" in ran.out
    assert "Trained" in ran.out
    assert {path.name for path in Path("amsam_adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "amsam.json",
        "changes.safetensors",
        "memories.safetensors",
        "run.json",
    }


def test_adapt_prints_no_forecast_when_none_was_made(amsam, toy, shots_folder):
    ran = amsam("adapt", shots_folder, "--steps", 0, "--no-forecast")

    assert ran.code == 0
    assert "Forecast" not in ran.out
    assert "none (training-free)" in ran.out


def test_adapt_json_is_one_object(amsam, toy, shots_folder):
    ran = amsam("adapt", shots_folder, "--steps", 0, "--no-forecast", "--json", "--label", "1=ball", "-k", 2)

    assert ran.json["labels"] == {"1": "ball", "2": "label_2"}
    assert len(ran.json["shots"]) == 2
    assert ran.json["forecast"] is None


def test_adapt_uses_all_slices_with_a_warning_when_there_are_fewer(amsam, toy, shots_folder):
    ran = amsam("adapt", "--shots", 9, shots_folder, "--steps", 0, "--no-forecast", "--json")

    assert len(ran.json["shots"]) == 4
    assert "only 4 slices are annotated" in ran.err


def test_adapt_dry_run_shows_the_choice_and_writes_nothing(amsam, shots_folder):
    before = sorted(Path().rglob("*"))

    ran = amsam("adapt", shots_folder, "-k", 2, "--dry-run")

    assert ran.code == 0
    assert "case_1.nii.gz" in ran.out
    assert "Chosen slice" in ran.out
    assert sorted(Path().rglob("*")) == before


def test_adapt_dry_run_json_lists_pairs_and_shots(amsam, shots_folder):
    ran = amsam("adapt", shots_folder, "-k", 2, "--dry-run", "--json")

    assert [pair["image"] for pair in ran.json["pairs"]] == ["case_0.nii.gz", "case_1.nii.gz"]
    assert ran.json["annotated_slices"] == 4
    assert len(ran.json["shots"]) == 2


def test_adapt_learns_from_exactly_the_listed_slices(amsam, toy, shots_folder, tmp_path):
    (tmp_path / "list.txt").write_text("case_1.nii.gz:5\ncase_0.nii.gz:4\n")

    ran = amsam("adapt", shots_folder, "--slices", "list.txt", "--steps", 0, "--no-forecast", "--json")

    assert ran.json["shots"] == ["case_1.nii.gz:5", "case_0.nii.gz:4"]


def test_adapt_refuses_shots_that_contradict_the_list(amsam, shots_folder, tmp_path):
    (tmp_path / "list.txt").write_text("case_1.nii.gz:5\n")

    ran = amsam("adapt", shots_folder, "--slices", "list.txt", "--shots", 4)

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert amsam("adapt", shots_folder, "--slices", "list.txt", "--shots", 1, "--dry-run").code == 0


@pytest.mark.parametrize("entries", [["liver"], ["x=liver"], ["0=air"], ["1=a", "1=b"], ["1=a", "2=a"], ["1="]])
def test_label_names_must_be_value_and_name(entries):
    with pytest.raises(typer.BadParameter):
        adapt._label_names(entries)


def test_label_names_may_hold_an_equals_sign():
    assert adapt._label_names(["1=a=b", "7= spleen "]) == {1: "a=b", 7: "spleen"}


def test_adapt_replaces_its_own_folder_but_no_other(amsam, toy, shots_folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    quick = ("adapt", shots_folder, "--steps", 0, "--no-forecast", "-o")

    assert [amsam(*quick, "new").code, amsam(*quick, "new").code, amsam(*quick, "mine").code] == [0, 0, 2]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_info_shows_what_adapt_printed(amsam, adapter_folder):
    ran = amsam("info", adapter_folder, "--json")

    assert ran.json["labels"] == {"1": "label_1", "2": "label_2"}
    assert "case_0.nii.gz:4" in amsam("info", adapter_folder).out


def test_adapt_prints_how_much_of_each_module_it_trained(amsam, toy, shots_folder):
    ran = amsam("adapt", shots_folder, "--steps", 2, "--no-forecast", "--tune", "encoder", "--bilevel", "first")

    assert ran.code == 0, ran.err
    assert all(part in ran.out for part in ("decoder LoRA", "encoder LoRA", "mask decoder", "calibration", "prompts"))


def test_folder_of_pictures_and_masks_goes_all_the_way(amsam, toy, tmp_path):
    figures = Path(__file__).parents[2] / "sample_data" / "figures"

    adapted = amsam("adapt", "--shots", 4, figures / "labels", "--steps", 2, "--no-forecast", "-o", "people")
    segmented = amsam("segment", figures / "images", "-a", "people", "-o", "masks", "--preview")
    evaluated = amsam("evaluate", "masks", figures / "labels", "--json")

    assert (adapted.code, segmented.code, evaluated.code) == (0, 0, 0), adapted.err + segmented.err + evaluated.err
    dice = [row["value"] for row in evaluated.json["rows"] if row["metric"] == "dice"]
    assert len(dice) == len(list((figures / "images").glob("*.png")))
