from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import save_nifti
from tests.scans import ball_scan


@pytest.fixture
def predictions(scans_folder, tmp_path) -> Path:
    """A folder of predictions that miss label 2 and are right about label 1."""
    for seed in (7, 8):
        labels = ball_scan(seed)[1].data
        save_nifti(tmp_path / "predictions" / f"case_{seed}.nii.gz", np.where(labels == 1, labels, 0).astype(np.uint8))
    return tmp_path / "predictions"


def test_evaluate_prints_the_summary(amsam, predictions, scans_folder):
    ran = amsam("evaluate", predictions, scans_folder / "labels")

    assert ran.code == 0
    assert ran.out.split("\n")[0].split()[:4] == ["Label", "Cases", "Absent", "Dice"]
    assert "1.000" in ran.out


def test_evaluate_json_has_rows_and_summary(amsam, predictions, scans_folder):
    ran = amsam("evaluate", predictions, scans_folder / "labels", "--json")

    dice = {(row["case"], row["label"]): row["value"] for row in ran.json["rows"] if row["metric"] == "dice"}
    assert dice == {
        ("case_7", "label_1"): 1,
        ("case_7", "label_2"): 0,
        ("case_8", "label_1"): 1,
        ("case_8", "label_2"): 0,
    }
    assert {row["metric"] for row in ran.json["summary"]} >= {"dice", "iou", "hd95_mm", "assd_mm", "nsd"}
    assert "NaN" not in ran.out


def test_evaluate_writes_every_report_asked_for(amsam, predictions, scans_folder):
    references = scans_folder / "labels"

    ran = amsam(
        *("evaluate", predictions, references, "--compare", references),
        *("--csv", "r/a.csv", "--json-file", "r/a.json", "--html", "r/a.html"),
    )

    assert ran.code == 0
    assert "Difference" in ran.out
    assert json.loads(Path("r/a.json").read_text())["comparison"]["rows"]
    assert {path.name for path in Path("r").iterdir()} == {"a.csv", "a.json", "a.html"}
