"""SEG and RTSTRUCT as labels: where they lie, what they are called, which series they belong to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amsam_cli.errors import GeometryError, InputError
from amsam_cli.evaluation import evaluate
from amsam_cli.io import find_cases, find_pairs, find_shots, read_grid, read_labels, read_volume
from amsam_cli.io.dicom.contours import inside

Save = Callable[..., Path]
AXIAL = ([1, 0, 0], [0, 1, 0])


@pytest.fixture
def series(placed_series: Save) -> Path:
    """A series of 5 columns, 4 rows and 4 slices, 0.25 x 0.5 x 2.5 mm, its first voxel at (5, -7, 11) LPS."""
    return placed_series(*AXIAL)


def two_of_three(shape: tuple[int, int, int] = (5, 4, 4)) -> np.ndarray:
    """Return labels 1 and 3 on slices 1 and 2 of file axes (I, J, K)."""
    data = np.zeros(shape, np.uint16)
    data[1:3, 1, 1], data[4, 0, 2] = 1, 3
    return data


def square(low: float, high: float, height: float) -> np.ndarray:
    """Return a contour in mm between two corners given in mm."""
    corners = [(low, low), (high, low), (high, high), (low, high)]
    return np.array([(5 + x, -7 + y, height) for x, y in corners])


# SEG


def test_seg_with_fewer_slices_lies_on_its_image(series: Path, save_seg: Save) -> None:
    path = save_seg("a.dcm", two_of_three(), series, {1: "liver", 3: "spleen"})

    labels = read_labels(path, "axial", on=read_grid(series))

    order = read_volume(series, "axial").source.order
    assert np.array_equal(order.undo(labels.data), two_of_three())
    assert labels.names == {1: "liver", 3: "spleen"}


def test_seg_alone_keeps_its_own_grid(series: Path, save_seg: Save) -> None:
    path = save_seg("a.dcm", two_of_three(), series, {1: "liver", 3: "spleen"})

    labels = read_labels(path, "axial")

    assert labels.geometry.shape[0] == 2
    assert labels.values() == (1, 3)


def test_seg_of_another_place_is_refused(series: Path, save_seg: Save, placed_series: Save) -> None:
    path = save_seg("a.dcm", two_of_three(), series, {1: "liver", 3: "spleen"})
    far = placed_series([0, 1, 0], [0, 0, -1], folder="far")

    with pytest.raises(GeometryError, match=r"do not overlap"):
        read_labels(path, "axial", on=read_grid(far))


def test_seg_beside_the_images_of_its_series_is_a_pair(series: Path, save_seg: Save) -> None:
    save_seg("series/seg.dcm", two_of_three(), series, {1: "liver", 3: "spleen"})

    (pair,) = find_pairs(series)

    assert (pair.image, pair.labels) == (series, series / "seg.dcm")
    assert [candidate.origin for candidate in find_shots(series)] == ["series:1", "series:2"]


def test_segs_find_their_series_whatever_the_names(placed_series: Save, save_seg: Save, tmp_path: Path) -> None:
    for name in ("b", "a"):
        folder = placed_series(*AXIAL, folder=f"images/patient_{name}")
        save_seg(f"labels/{'x' if name == 'b' else 'y'}.dcm", two_of_three(), folder, {1: "liver", 3: "spleen"})

    pairs = find_pairs(tmp_path / "labels", tmp_path / "images")

    assert [(pair.labels.name, pair.image.name) for pair in pairs] == [("x.dcm", "patient_b"), ("y.dcm", "patient_a")]
    assert find_shots(tmp_path / "labels")[0].pair.image.name == "patient_b"


def test_seg_whose_series_is_not_there_is_refused(series: Path, save_seg: Save, tmp_path: Path) -> None:
    save_seg("labels/a.dcm", two_of_three(), series, {1: "liver", 3: "spleen"})
    series.rename(tmp_path.parent / f"{tmp_path.name}_elsewhere")

    with pytest.raises(InputError, match="which is not here"):
        find_pairs(tmp_path / "labels")


def test_folder_of_segs_is_a_case_each_but_images_are_one(series: Path, save_seg: Save, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_seg(f"masks/{name}.dcm", two_of_three(), series, {1: "liver", 3: "spleen"})

    assert [case.name for case in find_cases(tmp_path / "masks")] == ["a", "b"]
    assert [case.name for case in find_cases(series)] == ["series"]


def test_seg_is_evaluated_against_a_seg_with_other_slices(series: Path, save_seg: Save) -> None:
    less = two_of_three()
    less[4, 0, 2] = 0
    reference = save_seg("a.dcm", two_of_three(), series, {1: "liver", 3: "spleen"})
    prediction = save_seg("b.dcm", less, series, {1: "liver", 3: "spleen"})

    report = evaluate(prediction, reference)

    dice = {row.label: row.value for row in report.rows if row.metric == "dice"}
    assert dice == {"liver": 1, "spleen": 0}


def test_names_decide_which_structure_of_a_seg_is_which(series: Path, save_seg: Save) -> None:
    other_values = np.where(two_of_three() == 1, 9, two_of_three())
    reference = save_seg("a.dcm", two_of_three(), series, {1: "liver", 3: "spleen"})
    prediction = save_seg("b.dcm", other_values, series, {9: "Liver", 3: "spleen"})

    report = evaluate(prediction, reference)

    assert {row.value for row in report.rows if row.metric == "dice"} == {1}


# RTSTRUCT


def test_contours_are_filled_on_the_grid_of_their_images(series: Path, save_contours: Save) -> None:
    structures = {"liver": [square(0.2, 0.6, 11), square(0.2, 0.6, 13.5)], "dot": [square(-0.1, 0.1, 16)]}
    path = save_contours("rt.dcm", structures, series)

    labels = read_labels(path, "axial", on=read_grid(series))

    stored = read_volume(series, "axial").source.order.undo(labels.data)
    expected = np.zeros((5, 4, 4), np.uint16)
    expected[1:3, 1, :2], expected[0, 0, 2] = 1, 2  # columns 0.25 and 0.5 mm, row 0.5 mm
    assert np.array_equal(stored, expected)
    assert labels.names == {1: "liver", 2: "dot"}


def test_contour_within_a_contour_is_a_hole(series: Path, save_contours: Save) -> None:
    path = save_contours("rt.dcm", {"ring": [square(-0.1, 1.1, 11), square(0.4, 0.6, 11)]}, series)

    labels = read_labels(path, "axial", on=read_grid(series))

    stored = read_volume(series, "axial").source.order.undo(labels.data)
    assert stored[2, 1, 0] == 0
    assert stored[1, 1, 0] == 1
    assert stored.sum() == 5 * 3 - 1


def test_contours_beside_their_series_are_a_pair(series: Path, save_contours: Save) -> None:
    save_contours("series/rt.dcm", {"liver": [square(0.2, 0.6, 11)]}, series)

    assert [candidate.origin for candidate in find_shots(series)] == ["series:0"]


def test_contours_are_evaluated_against_a_mask_on_their_images(
    series: Path, save_contours: Save, save_seg: Save
) -> None:
    data = np.zeros((5, 4, 4), np.uint16)
    data[1:3, 1, :2] = 1
    prediction = save_seg("a.dcm", data, series, {1: "liver"})
    reference = save_contours("rt.dcm", {"liver": [square(0.2, 0.6, 11), square(0.2, 0.6, 13.5)]}, series)

    report = evaluate(prediction, reference)

    assert {row.value for row in report.rows if row.metric == "dice"} == {1}


@pytest.mark.parametrize(
    ("contour", "said"),
    [
        (square(0.2, 0.6, 900), "lies outside of its image"),
        (
            square(0.2, 0.6, 11) + np.array([[0, 0, 0], [0, 0, 9], [0, 0, 9], [0, 0, 0]]),
            "does not lie within one slice",
        ),
    ],
    ids=["outside", "across-slices"],
)
def test_contours_that_do_not_lie_on_slices_are_refused(
    series: Path, save_contours: Save, contour: np.ndarray, said: str
) -> None:
    path = save_contours("rt.dcm", {"liver": [contour]}, series)

    with pytest.raises(GeometryError, match=said):
        read_labels(path, "axial", on=read_grid(series))


def test_contours_without_images_are_refused(series: Path, save_contours: Save) -> None:
    path = save_contours("rt.dcm", {"liver": [square(0.2, 0.6, 11)]}, series)

    with pytest.raises(InputError, match="has no voxels of its own"):
        read_labels(path, "axial")


def test_inside_counts_centres_of_a_slanted_line() -> None:
    triangle = np.array([[-0.5, -0.5], [4.5, -0.5], [-0.5, 4.5]])

    filled = inside(triangle, (5, 5))

    assert np.array_equal(filled, np.add.outer(np.arange(5), np.arange(5)) < 4)
