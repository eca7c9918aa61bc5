"""PASCAL and COCO in their own folder layouts, a dozen pictures of each made on the spot."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from amsam_cli.bench.voc import IGNORED, Coco, Pascal
from amsam_cli.errors import InputError

SIDE = 80


def save_picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)


def save_classes(path, *squares):
    """Write a PNG of class numbers: each square is (class, first, last) along both axes."""
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for number, first, last in squares:
        mask[first:last, first:last] = number
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


@pytest.fixture
def voc(tmp_path):
    """Four pictures: two of class 1, one of class 6 with a border to ignore, one whose object is too small."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    pictures = {
        "2007_000001": [(1, 0, 50)],
        "2007_000002": [(1, 10, 60)],
        "2007_000003": [(IGNORED, 0, 60), (6, 2, 58)],
        "2007_000004": [(1, 0, 45)],  # 2025 < 2048 pixels
    }
    for name, squares in pictures.items():
        save_picture(root / "JPEGImages" / f"{name}.jpg")
        save_classes(root / "SegmentationClass" / f"{name}.png", *squares)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(pictures) + "\n")
    return tmp_path


def test_pascal_finds_the_pictures_that_show_enough_of_a_class(voc):
    assert Pascal(voc).members == {1: ["2007_000001", "2007_000002"], 6: ["2007_000003"]}


@pytest.mark.parametrize("inner", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_pascal_is_found_from_any_of_its_folders(voc, inner):
    assert Pascal(voc / inner).picture("2007_000001").shape == (SIDE, SIDE, 3)


def test_pascal_mask_keeps_what_is_to_be_ignored(voc):
    mask = Pascal(voc).mask("2007_000003", 6)

    assert np.unique(mask).tolist() == [0, 1, IGNORED]
    assert (mask == 1).sum() == 56**2


def test_pascal_takes_the_augmented_masks_where_they_are(voc):
    save_classes(voc / "VOCdevkit/VOC2012/SegmentationClassAug/2007_000001.png", (2, 0, 50))
    for number in (2, 3, 4):
        save_classes(voc / f"VOCdevkit/VOC2012/SegmentationClassAug/2007_00000{number}.png")

    assert Pascal(voc).members == {2: ["2007_000001"]}


def test_pascal_folds_are_five_classes_each():
    pascal = Pascal("anywhere")

    assert list(pascal.classes(0)) == [1, 2, 3, 4, 5]
    assert pascal.classes(3) == {16: "pottedplant", 17: "sheep", 18: "sofa", 19: "train", 20: "tvmonitor"}


def test_pascal_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"val\.txt"):
        _ = Pascal(tmp_path).members


def coco_json(*annotations):
    """Return instances of one picture; the categories have a gap, as COCO's do."""
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}, {"id": 13, "name": "stop sign"}]
    images = [{"id": 7, "file_name": "COCO_val2014_000000000007.jpg"}]
    return json.dumps({"categories": categories, "images": images, "annotations": list(annotations)})


SQUARE = [[10, 10, 70, 10, 70, 70, 10, 70]]


@pytest.fixture
def coco(tmp_path):
    """COCO with one picture and its published annotations: a stop sign, and a crowd of persons in run lengths."""
    save_picture(tmp_path / "val2014" / "COCO_val2014_000000000007.jpg")
    (tmp_path / "annotations").mkdir()
    crowd = {"size": [SIDE, SIDE], "counts": [SIDE, 40 * SIDE, 39 * SIDE]}  # all but the first column, then 40 more
    text = coco_json(
        {"image_id": 7, "category_id": 13, "area": 3600.0, "segmentation": SQUARE, "iscrowd": 0},
        {"image_id": 7, "category_id": 1, "area": 3200.0, "segmentation": crowd, "iscrowd": 1},
    )
    (tmp_path / "annotations" / "instances_val2014.json").write_text(text)
    return tmp_path


def test_coco_numbers_its_categories_without_gaps(coco):
    source = Coco(coco)

    assert source.members == {1: ["COCO_val2014_000000000007"], 3: ["COCO_val2014_000000000007"]}
    assert source.classes(2)[3] == "stop sign"


def test_coco_folds_are_every_fourth_class(coco):
    assert list(Coco(coco).classes(1))[:3] == [2, 6, 10]
    assert len(Coco(coco).classes(3)) == 20


def test_coco_polygon_becomes_a_mask(coco):
    mask = Coco(coco).mask("COCO_val2014_000000000007", 3)

    assert mask.sum() == 3600
    assert mask[40, 40] == 1
    assert mask[5, 40] == 0


def test_coco_run_lengths_go_down_the_columns(coco):
    mask = Coco(coco).mask("COCO_val2014_000000000007", 1)

    assert mask.sum() == 40 * SIDE
    assert np.flatnonzero(mask.any(axis=0)).tolist() == list(range(1, 41))


def test_coco_prepared_as_pngs_needs_no_json(tmp_path):
    save_picture(tmp_path / "val2014" / "a.jpg")
    save_classes(tmp_path / "annotations" / "val2014" / "a.png", (5, 0, 60))

    source = Coco(tmp_path)

    assert source.members == {5: ["a"]}
    assert source.mask("a", 5).sum() == 3600


def test_coco_without_annotations_is_refused(tmp_path):
    (tmp_path / "val2014").mkdir()

    with pytest.raises(InputError, match=r"instances_val2014\.json"):
        _ = Coco(tmp_path).members
