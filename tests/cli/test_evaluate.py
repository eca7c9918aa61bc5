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


def test_evaluate_page_pictures_the_worst_cases_on_their_scans(amsam, predictions, scans_folder):
    plain = amsam("evaluate", predictions, scans_folder / "labels", "--html", "plain.html")

    ran = amsam(
        "evaluate", predictions, scans_folder / "labels", "--html", "a.html", "--images", scans_folder / "images"
    )

    page = Path("a.html").read_text()
    assert (plain.code, ran.code) == (0, 0)
    assert page.count("<figure>") == 2
    assert "case_7: label_1 1.000, label_2 0.000 (missed" in page
    assert len(page) > len(Path("plain.html").read_text())


def test_evaluate_warns_of_scans_that_do_not_fit(amsam, predictions, scans_folder, tmp_path):
    save_nifti(tmp_path / "elsewhere" / "case_7.nii.gz", np.zeros((3, 4, 5), dtype=np.uint8))

    ran = amsam(
        *("evaluate", predictions, scans_folder / "labels", "--html", "a.html", "--images", tmp_path / "elsewhere")
    )

    assert ran.code == 0
    assert "No scan on the grid of case 'case_7'" in ran.err


def test_evaluate_shows_scores_by_cohort(amsam, predictions, scans_folder, tmp_path):
    (tmp_path / "sites.csv").write_text("case_7,north\ncase_8,south\n")

    by_file = amsam("evaluate", predictions, scans_folder / "labels", "--cohort-file", tmp_path / "sites.csv")
    by_name = amsam("evaluate", predictions, scans_folder / "labels", "--cohort", r"\d$", "--json")

    assert "north" in by_file.out
    assert {row["cohort"] for row in by_name.json["cohort_summary"]} == {"7", "8"}


def test_evaluate_draws_patients_where_names_tell_them(amsam, predictions, scans_folder):
    ran = amsam("evaluate", predictions, scans_folder / "labels", "--group", "(case)", "--json")

    assert set(ran.json["patients"].values()) == {"case"}
    assert all(row["low"] is None for row in ran.json["summary"])  # one patient has no interval


def test_evaluate_takes_one_kind_of_cohort(amsam, predictions, scans_folder):
    ran = amsam("evaluate", predictions, scans_folder / "labels", "--cohort", "a", "--cohort-file", "b.csv")

    assert ran.code == 2
