"""Predictions against references: pairs them, measures every label, and compares two sets of predictions.

Both maps of a pair are read into one orientation and must lie on one grid; nothing is resampled. Knows neither models
nor how tables look.
"""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amsam_cli.errors import GeometryError, InputError
from amsam_cli.io import Case, find_cases, read_label_pair, read_volume
from amsam_cli.io.cases import holds_series
from amsam_cli.io.pairs import case_key
from amsam_cli.metrics import ABSENT, METRICS, Agreement, measure_labels
from amsam_cli.report import MEAN, Comparison, Difference, Json, Report, Score
from amsam_cli.report.scores import bootstrap_interval, macro_mean
from amsam_cli.version import __version__
from amsam_cli.volume import Geometry, LabelMap, Unit, Volume

FEWEST_FOR_A_TEST = 6
"""Below six patients even a difference that is the same in every one has p > 0.05."""

MOST_LABELS = 500
"""No atlas draws more structures; an integer image given by mistake does."""

MANY_UNSHARED = 50
"""So many labels in one of the two maps only are a mistake in the files more often than in the segmentation."""

_UNITS = {"hd95_mm": "length", "assd_mm": "length", "volume_error_pct": "%"}


@dataclass(frozen=True, slots=True)
class _MeasuredCase:
    """What one case holds: label value -> agreement, the unit of length, and names of label values."""

    name: str
    found: Mapping[int, Agreement]
    unit: Unit
    names: Mapping[int, str]


def evaluate(
    predictions: Path,
    references: Path,
    *,
    tolerance_mm: float = 1.0,
    names: Mapping[int, str] | None = None,
    on_case: Callable[[int, int], None] | None = None,
) -> Report:
    """Return the scores of every label in every case.

    Args:
        predictions: a label file, or a folder of them paired with the references by name.
        references: a label file, or a folder of them; what amsam leaves beside masks is passed over.
        tolerance_mm: how far off a surface may be for NSD; pixels for pictures.
        names: label value -> name; else those in the files, the references' first.
        on_case: called with (cases done, cases in all).

    Raises:
        InputError: nothing to evaluate, a reference without prediction, or a file that is no label map.
        GeometryError: a prediction and its reference lie on different grids.
    """
    _check_tolerance(tolerance_mm)
    pairs, warnings = _paired(Path(predictions), Path(references))
    cases = []
    for name, prediction, reference in pairs:
        maps = _read(prediction, reference)
        _check_grids(maps[0].geometry, maps[1].geometry, called=(f"'{prediction}'", f"'{reference}'"))
        cases.append(_measured(name, *maps, tolerance=tolerance_mm))
        warnings += _doubts(cases[-1])
        if on_case:
            on_case(len(cases), len(pairs))
    return _report_of(cases, tolerance=tolerance_mm, names=names or {}, warnings=warnings)


def evaluate_maps(
    prediction: LabelMap,
    reference: LabelMap,
    *,
    tolerance_mm: float = 1.0,
    names: Mapping[int, str] | None = None,
    case: str = "case",
) -> Report:
    """Return the scores of every label of one label map in memory, like `evaluate` of files.

    Raises:
        InputError: the tolerance is no length.
        GeometryError: the maps lie on different grids.
    """
    _check_tolerance(tolerance_mm)
    _check_grids(prediction.geometry, reference.geometry, called=("The prediction", "the reference"))
    measured = _measured(case, prediction, reference, tolerance=tolerance_mm)
    return _report_of([measured], tolerance=tolerance_mm, names=names or {}, warnings=[])


def read_pair(predictions: Path, references: Path, case: str) -> tuple[LabelMap, LabelMap]:
    """Return the prediction and the reference that `evaluate` measured as `case`.

    Raises:
        InputError: there is no such case.
    """
    pairs, _ = _paired(Path(predictions), Path(references))
    for name, prediction, reference in pairs:
        if name == case:
            return _read(prediction, reference)
    raise InputError(
        f"There is no case '{case}' in '{references}'.", f"Its cases are {_listed([p[0] for p in pairs])}."
    )


def read_scan(images: Path, case: str, grid: Geometry) -> Volume | None:
    """Return the scan of a case, `images` itself or the one of like name in it; None where none lies on the grid."""
    alone = _is_one_case(images)
    key = case_key(Path(case))
    fitting = [found.path for found in find_cases(images) if alone or case_key(found.path) == key]
    if len(fitting) != 1:
        return None
    scan = read_volume(fitting[0], "axial")
    return (
        scan if scan.geometry.shape == grid.shape and scan.geometry.matches(grid, tolerance_mm=_slack(grid)) else None
    )


def worst_cases(report: Report, count: int) -> list[str]:
    """Return the cases of lowest Dice, the worst first; the mean over labels decides, then HD95."""
    dice, far = (report.values(metric) for metric in ("dice", "hd95_mm"))
    there = np.flatnonzero(~np.isnan(dice).all(axis=1))
    order = sorted(there, key=lambda index: (np.nanmean(dice[index]), -np.nanmean(far[index])))
    return [report.cases[index] for index in order[:count]]


def groups_by_name(cases: Sequence[str], pattern: str) -> dict[str, str]:
    """Return the group of each case, such as its cohort or patient: what an expression finds in the case's name.

    Args:
        cases: their names.
        pattern: a regular expression; its first group counts if it has one.

    >>> groups_by_name(["siemens_01", "ge_02"], r"^([a-z]+)_")
    {'siemens_01': 'siemens', 'ge_02': 'ge'}

    Raises:
        InputError: it is no regular expression, or a case does not match.
    """
    try:
        expression = re.compile(pattern)
    except re.error as err:
        raise InputError(f"'{pattern}' is no regular expression: {err}.", r"Try '^([^_]+)_'.") from err
    found = {case: expression.search(case) for case in cases}
    unmatched = [case for case, match in found.items() if match is None]
    if unmatched:
        raise InputError(f"'{pattern}' is not in the names of {_listed(unmatched)}.", "Every case needs a match.")
    return {case: match.group(1 if expression.groups else 0) or "" for case, match in found.items() if match}


def cohorts_from_file(cases: Sequence[str], path: Path) -> dict[str, str]:
    """Return the cohort of each case from a CSV file whose first two columns are case and cohort.

    Raises:
        InputError: it cannot be read, or lacks a case.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            listed = {row[0].strip(): row[1].strip() for row in csv.reader(file) if len(row) > 1}
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise InputError(f"'{path}' cannot be read as CSV: {err}.", "Give lines such as case_03,siemens.") from err
    missing = [case for case in cases if case not in listed]
    if missing:
        raise InputError(f"'{path}' has no line for {_listed(missing)}.", "Every case needs a cohort.")
    return {case: listed[case] for case in cases}


def compare(first: Report, second: Report, *, seed: int = 0) -> Comparison:
    """Return how two sets of predictions of the same references differ, patient by patient.

    Cases and labels that both have a value for are compared by the Wilcoxon signed-rank test, volume errors without
    their sign. The cases of a patient, as `first` knows them, count as one by their mean.

    Raises:
        InputError: they share no case, or no label.
    """
    second = _renamed_like(first, second)
    cases, left_cases = _shared(first.cases, second.cases, "case")
    labels, left_labels = _shared(first.labels, second.labels, "label")
    groups = [(label, [label]) for label in labels] + ([(MEAN, labels)] if len(labels) > 1 else [])
    rows = []
    for label, members in groups:
        for metric, unit in first.metrics.items():
            ours, theirs = (_table(report, metric, cases=cases, labels=members) for report in (first, second))
            row = _difference(Difference(label, metric, unit), ours, theirs, first.patients_of(cases), seed=seed)
            rows += [row] if row else []
    return Comparison(tuple(rows), (*left_cases, *left_labels))


def _read(prediction: Path, reference: Path) -> tuple[LabelMap, LabelMap]:
    maps = read_label_pair(prediction, reference, "axial")
    for path, labels in zip((prediction, reference), maps, strict=True):
        if len(labels.names) > MOST_LABELS:  # every value that occurs has a name
            raise InputError(
                f"'{path}' holds {len(labels.names)} different values; expected at most {MOST_LABELS} labels.",
                "Is it the image? Check which file is the mask.",
            )
    return maps


def _doubts(case: _MeasuredCase) -> list[str]:
    unshared = sum(bool(agreement.note) for agreement in case.found.values())
    if unshared <= MANY_UNSHARED:
        return []
    return [f"Case '{case.name}': {unshared} labels are in one of the two files only; is one of them the image?"]


def _check_tolerance(tolerance: float) -> None:
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"The tolerance is {tolerance:g}; expected 0 mm or more.", "Give --tolerance-mm 1, say.")


def _paired(predictions: Path, references: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Return (case, prediction, reference) of every reference, and warnings about predictions left over."""
    single = [_is_one_case(path) for path in (predictions, references)]
    predicted, expected = find_cases(predictions), find_cases(references)
    if single[0] != single[1]:
        kinds = ["one file" if one else "a folder" for one in single]
        raise InputError(
            f"Predictions '{predictions}' are {kinds[0]}, references '{references}' are {kinds[1]}.",
            "Give two files or two folders.",
        )
    if single[0]:
        return [(expected[0].name, predicted[0].path, expected[0].path)], []
    pairs = _matched(predicted, expected)
    missing = [case.path.name for case in expected if case.name not in pairs]
    if missing:
        raise InputError(
            f"{_listed(missing)} of '{references}' have no prediction of the same name in '{predictions}'.",
            "Segment these too, or leave only the references that are wanted in the folder.",
        )
    used = {case.path for case in pairs.values()}
    extra = [case.path.name for case in predicted if case.path not in used]
    warnings = [f"Without reference, not evaluated: {_listed(extra)}."] if extra else []
    return [(case.name, pairs[case.name].path, case.path) for case in expected], warnings


def _is_one_case(path: Path) -> bool:
    return not path.is_dir() or holds_series(path)


def _matched(predicted: Sequence[Case], expected: Sequence[Case]) -> dict[str, Case]:
    """Return reference name -> prediction, of the same name, or else alike but for marks such as `_0000` and `_seg`."""
    by_name = {case.name: case for case in predicted}
    by_key: dict[str, list[Case]] = defaultdict(list)
    for case in predicted:
        by_key[case_key(case.path)].append(case)
    pairs = {}
    for reference in expected:
        fitting = [by_name[reference.name]] if reference.name in by_name else by_key[case_key(reference.path)]
        if len(fitting) > 1:
            names = [case.path.name for case in fitting]
            raise InputError(f"Reference '{reference.path.name}' fits {_listed(names)}.", "Leave one of them.")
        if fitting:
            pairs[reference.name] = fitting[0]
    return pairs


def _listed(names: Sequence[str], most: int = 5) -> str:
    """Return quoted names for a message, the first few of many.

    >>> _listed(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _check_grids(prediction: Geometry, reference: Geometry, *, called: tuple[str, str]) -> None:
    """Refuse maps on different grids; a tenth of a voxel is what programs lose when they write a header."""
    alike = prediction.unit == reference.unit and prediction.shape == reference.shape
    if alike and prediction.matches(reference, tolerance_mm=_slack(reference)):
        return
    if alike:
        apart = float(np.abs(prediction.corners() - reference.corners()).max())
        what = f"{called[0]} and {called[1]} lie up to {apart:.3g} mm apart in space"
    else:
        what = f"{called[0]} has {_grid_text(prediction)}, {called[1]} has {_grid_text(reference)}"
    raise GeometryError(
        f"{what}; expected one grid.",
        "Resample the prediction to the reference's grid by nearest neighbour, or check the pairing of the files.",
    )


def _slack(grid: Geometry) -> float:
    return max(1e-2, 0.1 * min(grid.spacing))


def _grid_text(geometry: Geometry) -> str:
    shape = " x ".join(str(size) for size in geometry.shape)
    return f"{shape} voxels of {' x '.join(f'{size:.4g}' for size in geometry.spacing)} {geometry.unit}"


def _measured(name: str, prediction: LabelMap, reference: LabelMap, *, tolerance: float) -> _MeasuredCase:
    spacing = reference.geometry.spacing
    found = measure_labels(prediction.data, reference.data, spacing=spacing, tolerance=tolerance)
    names = {**_given_names(prediction), **_given_names(reference)}
    return _MeasuredCase(name, found, reference.geometry.unit, names)


def _given_names(labels: LabelMap) -> dict[int, str]:
    return {value: name for value, name in labels.names.items() if name != f"label_{value}"}


def _report_of(
    cases: Sequence[_MeasuredCase], *, tolerance: float, names: Mapping[int, str], warnings: Sequence[str]
) -> Report:
    """Return every label that occurs in any case as a score of every case."""
    values = _values_of(cases, names)
    called = _called(values, [*(case.names for case in reversed(cases)), names])
    absent = Agreement(dict.fromkeys(METRICS), ABSENT)
    rows = [
        Score(case.name, called[value], metric, agreement.values[metric], _unit(metric, case.unit), agreement.note)
        for case in cases
        for value, agreement in ((value, case.found.get(value, absent)) for value in values)
        for metric in METRICS
    ]
    meta: dict[str, Json] = {
        "version": __version__,
        "cases": len(cases),
        "tolerance": tolerance,
        "tolerance_unit": cases[0].unit,
        "labels": {called[value]: value for value in values},
        "warnings": list(warnings),
    }
    return Report(tuple(rows), meta)


def _values_of(cases: Sequence[_MeasuredCase], names: Mapping[int, str]) -> list[int]:
    """Return the label values to report: those that occur or were asked for; of nothing but empty maps, those named."""
    wanted = {value for case in cases for value in case.found} | set(names)
    return sorted(wanted or {value for case in cases for value in case.names} or {1})


def _called(values: Sequence[int], sources: Sequence[Mapping[int, str]]) -> dict[int, str]:
    """Return a name of its own for every label value; later sources win."""
    names = {value: f"label_{value}" for value in values}
    for source in sources:
        names.update({value: name for value, name in source.items() if value in names})
    taken = [*names.values(), MEAN]
    return {value: name if taken.count(name) == 1 else f"{name} ({value})" for value, name in names.items()}


def _unit(metric: str, length: Unit) -> str:
    unit = _UNITS.get(metric, "")
    return length if unit == "length" else unit


def _shared(first: Sequence[str], second: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """Return what both have, in the order of `first`, and a warning about what only one of them has."""
    shared = [name for name in first if name in second]
    if not shared:
        raise InputError(
            f"The two evaluations share no {what}: {_listed(first)}; {_listed(second)}.",
            "Compare predictions of the same references, with the same file names.",
        )
    alone = [name for name in (*first, *second) if name not in shared]
    return shared, [f"In one of the two only, not compared: {what} {_listed(alone)}."] if alone else []


def _renamed_like(first: Report, second: Report) -> Report:
    """Return `second` with the label names that `first` has for the same values, where both say which those are."""
    ours, theirs = first.meta.get("labels"), second.meta.get("labels")
    if not (isinstance(ours, Mapping) and isinstance(theirs, Mapping)):
        return second
    name_of = {value: name for name, value in ours.items()}
    names = {name: name_of.get(value, name) for name, value in theirs.items()}
    return replace(second, rows=tuple(replace(row, label=names.get(row.label, row.label)) for row in second.rows))


def _table(report: Report, metric: str, *, cases: Sequence[str], labels: Sequence[str]) -> NDArray[np.float64]:
    """Return one metric as (cases, labels), better or worse by size alone, NaN where there is no value."""
    rows = [report.cases.index(case) for case in cases]
    columns = [report.labels.index(label) for label in labels]
    values = report.values(metric)[np.ix_(rows, columns)]
    return np.abs(values) if metric == "volume_error_pct" else values


def _difference(
    blank: Difference,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    patients: Sequence[str],
    *,
    seed: int,
) -> Difference | None:
    """Return `blank` with the paired difference of two (cases, labels) tables; None if no case has a value in both."""
    apart = first - second
    there = ~np.isnan(apart)
    kept = there.any(axis=1)
    if not kept.any():
        return None
    compared, whose = apart[kept], np.asarray(patients)[kept]
    by_patient = np.array([np.nanmean(compared[whose == patient], axis=1).mean() for patient in np.unique(whose)])
    low, high = bootstrap_interval(compared, whose.tolist(), seed=seed) or (None, None)
    p_value, effect = _signed_rank(by_patient)
    return replace(
        blank,
        n=len(by_patient),
        first=macro_mean(np.where(there, first, np.nan)) or 0.0,
        second=macro_mean(np.where(there, second, np.nan)) or 0.0,
        difference=macro_mean(compared) or 0.0,
        low=low,
        high=high,
        p_value=p_value,
        effect=effect,
        note=f"fewer than {FEWEST_FOR_A_TEST} patients" if len(by_patient) < FEWEST_FOR_A_TEST else "",
    )


def _signed_rank(differences: NDArray[np.float64]) -> tuple[float | None, float]:
    """Return the p-value of Wilcoxon's signed-rank test and the matched-pairs rank-biserial correlation.

    The correlation is the rank sum in favour minus the one against, over all ranks (Kerby 2014, The simple difference
    formula). Patients without difference count for neither side there, and not at all in the test.
    """
    from scipy.stats import rankdata, wilcoxon  # slow to import

    rounded = np.round(differences, 12)  # equal scores differ in their last digits
    ranks = rankdata(np.abs(rounded))
    effect = float((ranks * np.sign(rounded)).sum() / ranks.sum())
    if rounded.size < 2:
        return None, effect
    return (float(wilcoxon(rounded[rounded != 0]).pvalue) if rounded.any() else 1.0), effect
