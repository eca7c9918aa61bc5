import json

import numpy as np
import pytest

from amsam_cli.report import Comparison, Difference, Report, Score
from amsam_cli.report.scores import bootstrap_interval, number_text


def report_of(*rows):
    return Report(tuple(Score(*row) for row in rows), {"version": "1.2.3", "warnings": ["a thing"]})


TWO_LABELS = report_of(
    ("a", "liver", "dice", 0.9),
    ("a", "tumour", "dice", None, "", "absent in both"),
    ("b", "liver", "dice", 0.7),
    ("b", "tumour", "dice", 0.4),
)


def test_summary_means_each_label_over_its_cases():
    liver, tumour, _ = TWO_LABELS.summary

    assert (liver.mean, liver.n, liver.absent) == (pytest.approx(0.8), 2, 0)
    assert (tumour.mean, tumour.n, tumour.absent) == (pytest.approx(0.4), 1, 1)


def test_summary_over_labels_weighs_every_label_alike():
    mean = TWO_LABELS.summary[-1]

    assert mean.label == "mean"
    assert mean.mean == pytest.approx((0.8 + 0.4) / 2)
    assert (mean.n, mean.absent) == (2, 1)


def test_summary_has_no_mean_over_labels_when_there_is_one_label():
    report = report_of(("a", "liver", "dice", 0.5))

    assert [row.label for row in report.summary] == ["liver"]


def test_summary_has_no_interval_when_there_is_one_case():
    (row,) = report_of(("a", "liver", "dice", 0.5)).summary

    assert (row.mean, row.low, row.high) == (0.5, None, None)


def test_summary_is_empty_of_numbers_when_the_label_is_absent_everywhere():
    (row,) = report_of(("a", "liver", "dice", None), ("b", "liver", "dice", None)).summary

    assert (row.mean, row.low, row.high, row.n, row.absent) == (None, None, None, 0, 2)


def test_summary_keeps_apart_each_metric_and_its_unit():
    report = report_of(("a", "liver", "dice", 0.5), ("a", "liver", "hd95_mm", 4.0, "px"))

    assert [(row.metric, row.unit, row.mean) for row in report.summary] == [("dice", "", 0.5), ("hd95_mm", "px", 4.0)]


def test_bootstrap_interval_is_that_of_the_normal_theory_for_many_cases():
    values = np.random.default_rng(1).normal(10.0, 2.0, size=(400, 1))

    low, high = bootstrap_interval(values)

    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)


def test_bootstrap_interval_repeats_with_its_seed():
    values = np.random.default_rng(2).uniform(size=(9, 3))

    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)


def test_bootstrap_interval_is_a_point_when_all_cases_are_equal():
    assert bootstrap_interval(np.full((5, 2), 0.25)) == (0.25, 0.25)


def test_bootstrap_interval_copes_with_labels_that_a_resample_misses():
    values = np.array([[0.5, np.nan], [0.5, 0.1], [0.5, np.nan], [np.nan, np.nan]])

    low, high = bootstrap_interval(values)

    assert low == pytest.approx(0.3)
    assert high == pytest.approx(0.5)


def test_bootstrap_interval_draws_patients_with_all_of_their_cases():
    values = np.array([[0.0], [0.0], [1.0], [1.0]])

    assert bootstrap_interval(values, ["a", "a", "b", "b"]) == (0.0, 1.0)  # both draws of one patient: 1 in 4 each
    assert bootstrap_interval(values, ["a", "a", "a", "a"]) is None
    assert bootstrap_interval(values, ["d", "c", "b", "a"]) == bootstrap_interval(values)


def test_summary_interval_is_over_patients_and_its_mean_over_cases():
    rows = tuple(Score(case, "liver", "dice", value) for case, value in {"a1": 0.2, "a2": 0.4, "b1": 0.9}.items())
    report = Report(rows, patients={"a1": "a", "a2": "a"})

    (row,) = report.summary

    assert row.mean == pytest.approx(0.5)
    assert (row.low, row.high) == (pytest.approx(0.3), pytest.approx(0.9))
    assert Report.from_json(report.to_json()).summary == report.summary


def test_report_comes_back_from_json():
    content = json.loads(json.dumps(TWO_LABELS.to_json()))

    again = Report.from_json(content)

    assert again.rows == TWO_LABELS.rows
    assert again.summary == TWO_LABELS.summary
    assert again.meta == TWO_LABELS.meta


def test_report_json_has_the_keys_of_the_contract():
    content = TWO_LABELS.to_json()

    assert {"rows", "summary"} <= set(content)
    assert set(content["rows"][0]) == {"case", "label", "metric", "value", "unit", "note"}


def test_summary_table_shows_means_with_intervals():
    table = report_of(("a", "liver", "hd95_mm", 2.0, "mm"), ("b", "liver", "hd95_mm", 2.0, "mm")).summary_table()

    assert table == [["Label", "Cases", "Absent", "HD95 (mm)"], ["liver", "2", "0", "2.00 [2.00, 2.00]"]]


def test_case_table_has_a_row_for_each_label_of_a_case():
    table = TWO_LABELS.case_table()

    assert table[0] == ["Case", "Label", "Dice", "Note"]
    assert table[2] == ["a", "tumour", "–", "absent in both"]


def test_comparison_table_shows_small_p_values_as_a_bound():
    row = Difference("liver", "dice", "", 9, 0.9, 0.8, 0.1, 0.05, 0.15, 0.0004, 1.0)

    table = Comparison((row,)).table()

    assert table[1] == ["liver", "Dice", "9", "0.900", "0.800", "+0.100 [+0.050, +0.150]", "<0.001", "+1.00", ""]


def test_number_text_of_infinity_is_a_dash():
    assert number_text(float("inf"), "mm") == "–"


def test_cohorts_are_summarised_each_by_itself():
    rows = tuple(Score(case, "liver", "dice", value) for case, value in (("a", 0.2), ("b", 0.8), ("c", 1.0)))
    report = Report(rows, cohorts={"a": "GE", "b": "Siemens", "c": "Siemens"})

    assert [(row.cohort, row.n, row.mean) for row in report.cohort_summary] == [("GE", 1, 0.2), ("Siemens", 2, 0.9)]
    assert report.cohort_table()[1][:4] == ["GE", "liver", "1", "0"]
    assert report.summary[0].n == 3


def test_summary_table_shows_the_metrics_asked_for():
    report = Report((Score("a", "liver", "dice", 0.5), Score("a", "liver", "nsd", 0.7)))

    assert report.summary_table(["nsd"]) == [["Label", "Cases", "Absent", "NSD"], ["liver", "1", "0", "0.700"]]


def test_report_with_cohorts_comes_back_from_json():
    report = Report((Score("a", "liver", "dice", 0.5),), cohorts={"a": "GE"})

    content = report.to_json()

    assert content["cohort_summary"][0]["cohort"] == "GE"
    assert Report.from_json(content).cohorts == {"a": "GE"}
