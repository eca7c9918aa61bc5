from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from amsam_cli.errors import InputError
from amsam_cli.io import find_pairs
from amsam_cli.io.pairs import read_dataset


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names_of(labels: Path, images: Path | None = None) -> list[tuple[str, str]]:
    """Return what was paired, relative to the folder above the labels."""
    return [(pair.image.name, pair.labels.name) for pair in find_pairs(labels, images)]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a.nii.gz", "a.nii.gz"),
        ("a_0000.nii.gz", "a.nii.gz"),
        ("a_image.nrrd", "a_label.nii.gz"),
        ("a_img.png", "a_mask.png"),
        ("a_scan.nii", "a_gt.nii"),
        ("a.nii.gz", "a_seg.nii.gz"),
        ("a_IMG.png", "a_labels.png"),
    ],
)
def test_pairs_are_made_by_stem_with_an_images_folder(tmp_path: Path, image: str, label: str) -> None:
    touch(tmp_path, f"scans/{image}", "scans/b.nii.gz", f"drawn/{label}")

    assert names_of(tmp_path / "drawn", tmp_path / "scans") == [(image, label)]


def test_pair_prefers_the_exact_name(tmp_path: Path) -> None:
    touch(tmp_path, "scans/a.nii.gz", "scans/a_0000.nii.gz", "drawn/a.nii.gz")

    assert names_of(tmp_path / "drawn", tmp_path / "scans") == [("a.nii.gz", "a.nii.gz")]


@pytest.mark.parametrize("labels", ["", "labels", "labels/a.png"], ids=["above", "folder", "file"])
def test_pairs_are_found_in_images_and_labels(tmp_path: Path, labels: str) -> None:
    touch(tmp_path, "images/a.png", "labels/a.png")

    assert names_of(tmp_path / labels) == [("a.png", "a.png")]


def test_pairs_are_found_in_the_sibling_of_decathlon(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")

    assert names_of(tmp_path / "labelsTr") == [("a.nii.gz", "a.nii.gz")]


def test_pairs_are_found_side_by_side(tmp_path: Path) -> None:
    touch(tmp_path, "a_image.nii.gz", "a_label.nii.gz", "b_image.nii.gz", "a_label.nii.gz.json")

    assert names_of(tmp_path) == [("a_image.nii.gz", "a_label.nii.gz")]


def test_unrelated_sibling_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "images/logo.png", "shots/a_image.nii.gz", "shots/a_label.nii.gz")

    assert names_of(tmp_path / "shots") == [("a_image.nii.gz", "a_label.nii.gz")]


def test_pairs_and_names_are_found_in_a_dataset_file(tmp_path: Path) -> None:
    touch(tmp_path, "i/a.nii.gz", "l/x.nii.gz")
    content = {
        "labels": {"0": "background", "1": "liver"},
        "training": [{"image": "./i/a.nii.gz", "label": "./l/x.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))

    assert names_of(tmp_path) == [("a.nii.gz", "x.nii.gz")]
    dataset = read_dataset(tmp_path / "l")
    assert dataset is not None
    assert dataset.names == {1: "liver"}


def test_names_of_a_dataset_file_may_be_keys(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "both": [1, 2]}}))

    dataset = read_dataset(tmp_path)

    assert dataset is not None
    assert dataset.names == {1: "liver"}


def test_dataset_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{")

    with pytest.raises(InputError, match=r"dataset\.json' is no Decathlon"):
        find_pairs(tmp_path)


def test_two_files_are_a_pair_whatever_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "scan.nii.gz", "drawn.nii.gz")

    assert names_of(tmp_path / "drawn.nii.gz", tmp_path / "scan.nii.gz") == [("scan.nii.gz", "drawn.nii.gz")]


def test_dicom_folder_is_an_image(tmp_path: Path, save_series: Callable[..., Path]) -> None:
    save_series([(0, 0, 0)], folder="images/case1")
    touch(tmp_path, "labels/case1.nii.gz")

    (pair,) = find_pairs(tmp_path)

    assert pair.image == tmp_path / "images" / "case1"
    assert len(pair.patient) == 16
    assert "patient-7" not in pair.patient


@pytest.mark.parametrize(
    ("group", "patients"),
    [(None, ["p1_t1", "p1_t2"]), (r"p\d", ["p1", "p1"]), (r"_(t\d)", ["t1", "t2"])],
    ids=["file", "match", "group"],
)
def test_patient_is_the_part_of_the_name_that_was_asked_for(
    tmp_path: Path, group: str | None, patients: list[str]
) -> None:
    touch(tmp_path, "images/p1_t1.png", "images/p1_t2.png", "labels/p1_t1.png", "labels/p1_t2.png")

    assert [pair.patient for pair in find_pairs(tmp_path, group=group)] == patients


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "No pair of an image and a label file"),
        (["a.nii.gz"], "No pair of an image and a label file"),
        (["a_label.nii.gz"], r"a_label\.nii\.gz' has no image of the same name"),
        (["images/a.png", "labels/b.png"], r"b\.png' has no image"),
        (["images/a.png", "images/a.tif", "labels/a.png"], r"fits 'a\.png' and 'a\.tif'"),
        (["images/a.png", "labels/readme.txt"], "holds no scan"),
    ],
    ids=["empty", "no_mark", "label_alone", "other_name", "two_images", "no_labels"],
)
def test_no_pairs_are_refused_in_words(tmp_path: Path, files: list[str], said: str) -> None:
    folder = touch(tmp_path / "set", *files)
    folder.mkdir(exist_ok=True)

    with pytest.raises(InputError, match=said):
        find_pairs(folder)


@pytest.mark.parametrize(("group", "said"), [("(", "no regular expression"), ("q", "not found in the file name")])
def test_group_that_does_not_fit_is_refused(tmp_path: Path, group: str, said: str) -> None:
    touch(tmp_path, "images/a.png", "labels/a.png")

    with pytest.raises(InputError, match=said):
        find_pairs(tmp_path, group=group)
