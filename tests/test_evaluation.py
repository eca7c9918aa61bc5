import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from amsam_cli.errors import GeometryError, InputError
from amsam_cli.evaluation import (
    cohorts_from_file,
    compare,
    evaluate,
    evaluate_maps,
    groups_by_name,
    read_pair,
    read_scan,
    worst_cases,
)
from amsam_cli.report import Report, Score, json_text
from amsam_cli.volume import Geometry, LabelMap

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data" / "acdc_heart_mr" / "labels"
SPACING = (0.5, 2.0, 4.0)  # along the axes of the file


def cube(start=2, *, value=1, shape=(12, 10, 8)):
    data = np.zeros(shape, dtype=np.uint8)
    data[start : start + 4, 2:6, 2:6] = value
    return data


def save(path, data, *, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([*SPACING, 1.0]) if affine is None else affine), path)
    return path


def value_of(report, metric, *, case=None, label=None):
    rows = [r for r in report.rows if r.metric == metric and case in (None, r.case) and label in (None, r.label)]
    assert len(rows) == 1
    return rows[0].value


def label_map(data, *, spacing=(1.0, 1.0, 1.0), names=None):
    return LabelMap(data.astype(np.uint16), Geometry(data.shape, np.diag([*spacing, 1.0])), names or {})


def test_two_files_are_evaluated_with_the_spacing_of_their_axes(tmp_path):
    prediction = save(tmp_path / "mask.nii.gz", cube(3))
    reference = save(tmp_path / "case_7_seg.nii.gz", cube(2))

    report = evaluate(prediction, reference)

    assert report.cases == ("case_7_seg",)
    assert value_of(report, "dice") == pytest.approx(2 * 48 / 128)
    assert value_of(report, "hd95_mm") == pytest.approx(0.5)
    assert value_of(report, "nsd") == 1.0


def test_shift_along_the_coarse_axis_is_as_long_as_a_slice_is_thick(tmp_path):
    prediction = save(tmp_path / "p.nii.gz", np.roll(cube(), 1, axis=2))
    reference = save(tmp_path / "r.nii.gz", cube())

    assert value_of(evaluate(prediction, reference), "hd95_mm") == pytest.approx(4.0)


def test_prediction_stored_in_other_axes_is_the_same_mask(tmp_path):
    reference = save(tmp_path / "r.nii.gz", cube())
    turned = nib.load(reference).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    nib.save(turned, tmp_path / "p.nii")

    report = evaluate(tmp_path / "p.nii", reference)

    assert value_of(report, "dice") == 1.0
    assert value_of(report, "assd_mm") == 0.0


def test_folders_are_paired_by_stem_and_sidecars_passed_over(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "p" / f"{name}.nii.gz", cube())
        save(tmp_path / "r" / f"{name}.nii", cube())
    for sidecar in ("a.nii.gz.json", "a.nii.gz.preview.png", "a.nii.gz.html"):
        (tmp_path / "p" / sidecar).write_text("{}")

    report = evaluate(tmp_path / "p", tmp_path / "r")

    assert report.cases == ("a", "b")
    assert report.meta["warnings"] == []
    assert report.summary[0].mean == 1.0


def test_folders_are_paired_when_names_differ_in_marks_only(tmp_path):
    save(tmp_path / "p" / "a_0000.nii.gz", cube())
    save(tmp_path / "r" / "a_seg.nii.gz", cube())

    assert evaluate(tmp_path / "p", tmp_path / "r").cases == ("a_seg",)


def test_reference_without_prediction_is_refused_by_name(tmp_path):
    save(tmp_path / "p" / "a.nii.gz", cube())
    for name in ("a", "b"):
        save(tmp_path / "r" / f"{name}.nii.gz", cube())

    with pytest.raises(InputError, match=r"'b\.nii\.gz' of .* have no prediction"):
        evaluate(tmp_path / "p", tmp_path / "r")


def test_prediction_without_reference_is_a_warning(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "p" / f"{name}.nii.gz", cube())
    save(tmp_path / "r" / "a.nii.gz", cube())

    report = evaluate(tmp_path / "p", tmp_path / "r")

    assert report.cases == ("a",)
    assert report.meta["warnings"] == ["Without reference, not evaluated: 'b.nii.gz'."]


def test_reference_that_fits_two_predictions_is_refused(tmp_path):
    for name in ("a_0000", "a_seg"):
        save(tmp_path / "p" / f"{name}.nii.gz", cube())
    save(tmp_path / "r" / "a.nii.gz", cube())

    with pytest.raises(InputError, match="fits 'a_0000"):
        evaluate(tmp_path / "p", tmp_path / "r")


def test_file_and_folder_are_refused(tmp_path):
    prediction = save(tmp_path / "p.nii.gz", cube())
    save(tmp_path / "r" / "a.nii.gz", cube())

    with pytest.raises(InputError, match=r"one file, references .* a folder"):
        evaluate(prediction, tmp_path / "r")


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_tolerance_that_is_no_length_is_refused(tmp_path, tolerance):
    with pytest.raises(InputError, match="tolerance"):
        evaluate(tmp_path, tmp_path, tolerance_mm=tolerance)


def test_image_of_whole_numbers_is_refused_as_a_mask(tmp_path):
    image = save(tmp_path / "image.nii.gz", np.arange(960, dtype=np.int16).reshape(12, 10, 8))

    with pytest.raises(InputError, match=r"image\.nii\.gz' holds 959 different values"):
        evaluate(image, save(tmp_path / "r.nii.gz", cube()))


def test_image_of_few_grey_values_is_doubted_as_a_mask(tmp_path):
    image = save(tmp_path / "image.nii.gz", (np.arange(960) % 200).astype(np.uint8).reshape(12, 10, 8))

    report = evaluate(image, save(tmp_path / "r.nii.gz", cube()))

    assert report.meta["warnings"] == [
        "Case 'r': 198 labels are in one of the two files only; is one of them the image?"
    ]


def test_masks_of_different_size_are_refused_with_both_sizes(tmp_path):
    prediction = save(tmp_path / "p.nii.gz", cube(shape=(12, 10, 9)))
    reference = save(tmp_path / "r.nii.gz", cube())

    with pytest.raises(GeometryError, match=r"9 x 10 x 12 voxels .* 8 x 10 x 12 voxels"):
        evaluate(prediction, reference)


def test_masks_at_different_places_are_refused_with_their_distance(tmp_path):
    affine = np.diag([*SPACING, 1.0])
    affine[0, 3] = 30.0
    prediction = save(tmp_path / "p.nii.gz", cube(), affine=affine)
    reference = save(tmp_path / "r.nii.gz", cube())

    with pytest.raises(GeometryError, match="up to 30 mm apart"):
        evaluate(prediction, reference)


def test_rounded_header_is_the_same_grid(tmp_path):
    affine = np.diag([*SPACING, 1.0])
    affine[0, 3] = 0.02
    prediction = save(tmp_path / "p.nii.gz", cube(), affine=affine)

    assert value_of(evaluate(prediction, save(tmp_path / "r.nii.gz", cube())), "dice") == 1.0


def test_pictures_are_measured_in_pixels(tmp_path):
    for folder, top in (("p", 11), ("r", 10)):
        picture = np.zeros((40, 30), dtype=np.uint8)
        picture[top : top + 10, 5:15] = 255
        (tmp_path / folder).mkdir()
        Image.fromarray(picture).save(tmp_path / folder / "a.png")

    report = evaluate(tmp_path / "p", tmp_path / "r")

    assert report.metrics["hd95_mm"] == report.metrics["assd_mm"] == "px"
    assert report.meta["tolerance_unit"] == "px"
    assert value_of(report, "dice") == pytest.approx(2 * 90 / 200)
    assert value_of(report, "hd95_mm") == 1.0


def test_label_missing_from_one_case_is_absent_there_and_counted_apart(tmp_path):
    save(tmp_path / "p" / "a.nii.gz", cube(value=1))
    save(tmp_path / "r" / "a.nii.gz", cube(value=1))
    save(tmp_path / "p" / "b.nii.gz", cube(value=2))
    save(tmp_path / "r" / "b.nii.gz", cube(value=2))

    report = evaluate(tmp_path / "p", tmp_path / "r")

    assert value_of(report, "dice", case="a", label="label_2") is None
    assert {row.note for row in report.rows if row.value is None} == {"absent in both"}
    assert [(row.label, row.n, row.absent) for row in report.summary if row.metric == "dice"] == [
        ("label_1", 1, 1), ("label_2", 1, 1), ("mean", 2, 2)
    ]  # fmt: skip


def test_missed_structure_counts_in_the_mean():
    reference, missed = cube(), np.zeros((12, 10, 8))

    report = evaluate_maps(label_map(missed), label_map(reference))

    assert report.summary[0].mean == 0.0
    assert value_of(report, "hd95_mm") == pytest.approx(math.sqrt(12**2 + 10**2 + 8**2))
    assert "missed" in report.rows[0].note


def test_empty_masks_give_null_for_one_label():
    empty = label_map(np.zeros((4, 5, 6)))

    report = evaluate_maps(empty, empty)

    assert report.labels == ("label_1",)
    assert {row["value"] for row in json.loads(json_text(report.to_json()))["rows"]} == {None}


@pytest.mark.parametrize(
    ("given", "stored", "predicted", "expected"),
    [
        ({1: "left"}, {1: "liver"}, {1: "x"}, "left"),
        (None, {1: "liver"}, {1: "x"}, "liver"),
        (None, {1: "label_1"}, {1: "x"}, "x"),
        (None, {}, {}, "label_1"),
    ],
    ids=["given", "of the reference", "of the prediction", "none"],
)
def test_label_is_called_by_the_nearest_name(given, stored, predicted, expected):
    report = evaluate_maps(label_map(cube(), names=predicted), label_map(cube(), names=stored), names=given)

    assert report.labels == (expected,)


@pytest.mark.parametrize("name", ["lung", "mean"])
def test_labels_keep_apart_when_their_names_would_not(name):
    both = label_map(np.maximum(cube(), cube(7, value=2)))

    report = evaluate_maps(both, both, names={1: name, 2: "lung"})

    assert len(report.labels) == 2
    assert "mean" not in report.labels


def test_progress_is_told_after_every_case(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "m" / f"{name}.nii.gz", cube())
    steps = []

    evaluate(tmp_path / "m", tmp_path / "m", on_case=lambda done, total: steps.append((done, total)))

    assert steps == [(1, 2), (2, 2)]


def test_pair_is_read_by_the_name_of_its_case(tmp_path):
    save(tmp_path / "p" / "a_0000.nii.gz", cube(3))
    save(tmp_path / "r" / "a_seg.nii.gz", cube(2))

    prediction, reference = read_pair(tmp_path / "p", tmp_path / "r", "a_seg")

    assert prediction.mask(1).sum() == reference.mask(1).sum() == 64
    assert (prediction.data != reference.data).any()


def test_pair_of_an_unknown_case_is_refused(tmp_path):
    save(tmp_path / "p" / "a.nii.gz", cube())
    save(tmp_path / "r" / "a.nii.gz", cube())

    with pytest.raises(InputError, match="no case 'b'"):
        read_pair(tmp_path / "p", tmp_path / "r", "b")


def test_scan_of_a_case_is_found_by_its_name(tmp_path):
    save(tmp_path / "r" / "a_seg.nii.gz", cube())
    save(tmp_path / "images" / "a_0000.nii.gz", cube(5, value=7))
    _, reference = read_pair(tmp_path / "r", tmp_path / "r", "a_seg")

    scan = read_scan(tmp_path / "images", "a_seg", reference.geometry)

    assert scan.range == (0, 7)


@pytest.mark.parametrize("name", ["b.nii.gz", "a.nii.gz"], ids=["other name", "other grid"])
def test_scan_that_does_not_fit_is_not_taken(tmp_path, name):
    save(tmp_path / "r" / "a.nii.gz", cube())
    save(tmp_path / "images" / name, cube(shape=(12, 10, 9)))
    _, reference = read_pair(tmp_path / "r", tmp_path / "r", "a")

    assert read_scan(tmp_path / "images", "a", reference.geometry) is None


def test_worst_cases_come_first_and_absent_ones_never():
    rows = [
        *(Score(case, "liver", "dice", value) for case, value in zip("abcd", [0.9, 0.2, None, 0.2], strict=True)),
        *(Score(case, "liver", "hd95_mm", value) for case, value in zip("abcd", [1, 5, None, 9], strict=True)),
    ]

    assert worst_cases(Report(tuple(rows)), 3) == ["d", "b", "a"]


def test_cohort_is_the_first_group_of_the_expression_or_all_of_it():
    assert groups_by_name(["ge_1", "siemens_2"], r"^([a-z]+)_") == {"ge_1": "ge", "siemens_2": "siemens"}
    assert groups_by_name(["x2019a"], r"\d{4}") == {"x2019a": "2019"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "no regular expression"), (r"\d", "not in the names of 'ge'")],
    ids=["broken", "absent"],
)
def test_cohort_expression_that_is_of_no_use_is_refused(pattern, message):
    with pytest.raises(InputError, match=message):
        groups_by_name(["ge"], pattern)


def test_cohorts_are_read_from_a_table(tmp_path):
    table = tmp_path / "cohorts.csv"
    table.write_text("case,cohort\na,GE\nb,Siemens\n")

    assert cohorts_from_file(["a", "b"], table) == {"a": "GE", "b": "Siemens"}


@pytest.mark.parametrize("text", ["a,GE\n", None], ids=["a case missing", "no file"])
def test_cohort_table_of_no_use_is_refused(tmp_path, text):
    table = tmp_path / "cohorts.csv"
    if text:
        table.write_text(text)

    with pytest.raises(InputError, match=r"cohorts\.csv"):
        cohorts_from_file(["a", "b"], table)


def scores(values, *, label="liver", metric="dice"):
    return tuple(Score(f"case_{index}", label, metric, value) for index, value in enumerate(values))


def test_comparison_of_six_cases_that_all_improve_is_significant():
    first, second = Report(scores([0.61, 0.72, 0.83, 0.94, 0.75, 0.66])), Report(scores([0.6, 0.7, 0.8, 0.9, 0.7, 0.6]))

    (row,) = compare(first, second).rows

    assert row.p_value == pytest.approx(2 / 2**6)
    assert row.effect == 1.0
    assert row.difference == pytest.approx((0.01 + 0.02 + 0.03 + 0.04 + 0.05 + 0.06) / 6)
    assert 0.01 < row.low < row.difference < row.high < 0.06


def test_comparison_effect_weighs_ranks_against_each_other():
    # Differences +1, +3, -2: ranks 1 and 3 in favour, 2 against; (4 - 2) / 6.
    first, second = Report(scores([2.0, 4.0, 1.0])), Report(scores([1.0, 1.0, 3.0]))

    (row,) = compare(first, second).rows

    assert row.effect == pytest.approx(1 / 3)
    assert row.note == "fewer than 6 patients"


def test_comparison_effect_is_small_when_most_cases_are_equal():
    # One difference of rank 4, three ties of rank 2 each: 4 / 10.
    first, second = Report(scores([1.0, 1.0, 1.0, 2.0])), Report(scores([1.0] * 4))

    (row,) = compare(first, second).rows

    assert row.effect == pytest.approx(0.4)
    assert row.p_value == 1.0


@pytest.mark.parametrize("n", range(2, 16))
def test_comparison_of_any_number_of_tied_differences_has_a_p_value(n):
    first, second = Report(scores([index % 3 for index in range(n)])), Report(scores([1.0] * n))

    (row,) = compare(first, second).rows

    assert 0 < row.p_value <= 1


def test_comparison_of_equal_scores_finds_nothing():
    report = Report(scores([0.5, 0.6, 0.7]))

    (row,) = compare(report, report).rows

    assert (row.difference, row.p_value, row.effect) == (0.0, 1.0, 0.0)


def test_comparison_leaves_out_what_one_of_them_lacks():
    first = Report(scores([0.5, None, 0.7, 0.9]))
    second = Report(scores([0.4, 0.6, 0.7]))

    comparison = compare(first, second)

    assert comparison.rows[0].n == 2
    assert comparison.warnings == ("In one of the two only, not compared: case 'case_3'.",)


def test_comparison_means_over_labels_that_both_have():
    first = Report(scores([0.8, 0.8]) + scores([0.4, 0.4], label="tumour"))
    second = Report(scores([0.7, 0.7]) + scores([0.1, 0.1], label="tumour"))

    rows = compare(first, second).rows

    assert [row.label for row in rows] == ["liver", "tumour", "mean"]
    assert rows[-1].difference == pytest.approx(0.2)


def test_comparison_of_volume_errors_ignores_their_sign():
    first = Report(scores([-10.0, 20.0], metric="volume_error_pct"))
    second = Report(scores([10.0, -20.0], metric="volume_error_pct"))

    assert compare(first, second).rows[0].difference == 0.0


def test_comparison_matches_labels_by_value_when_only_one_set_names_them():
    named = evaluate_maps(label_map(cube(), names={1: "liver"}), label_map(cube()))
    unnamed = evaluate_maps(label_map(cube(3)), label_map(cube()))

    assert compare(named, unnamed).rows[0].difference == pytest.approx(0.25)


def test_comparison_counts_the_scans_of_a_patient_once():
    cases = {f"p{number}_{scan}": f"p{number}" for number in range(6) for scan in "ab"}
    first, second = (tuple(Score(case, "liver", "dice", value) for case in cases) for value in (0.9, 0.8))

    (row,) = compare(Report(first, patients=cases), Report(second)).rows

    assert row.n == 6
    assert row.p_value == pytest.approx(2 / 2**6)


def test_comparison_of_different_cases_is_refused():
    with pytest.raises(InputError, match="share no case"):
        compare(Report((Score("a", "liver", "dice", 1.0),)), Report((Score("b", "liver", "dice", 1.0),)))


@pytest.mark.real
@pytest.mark.skipif(not SHARED.is_dir(), reason="no labelled scans beside the checkout")
def test_real_heart_shifted_by_a_voxel_is_a_voxel_off(tmp_path):
    reference = sorted(SHARED.glob("*.nii.gz"))[0]
    image = nib.load(reference)
    shifted = np.roll(np.asarray(image.dataobj), 1, axis=0)
    nib.save(nib.Nifti1Image(shifted, image.affine, image.header), tmp_path / "p.nii.gz")

    report = evaluate(tmp_path / "p.nii.gz", reference, tolerance_mm=2.0)

    step = float(image.header.get_zooms()[0])
    assert {row.value for row in report.rows if row.metric == "nsd"} == {1.0}
    assert all(row.value <= step + 1e-6 for row in report.rows if row.metric == "hd95_mm")
    assert all(0.7 < row.value < 1.0 for row in report.rows if row.metric == "dice")
