"""Scores of cases and labels, their means and intervals, and paired differences between two sets of them.

Does not know how a score is computed or what a mask is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from amsam_cli.report.files import Json

Table: TypeAlias = list[list[str]]
"""Rows of text for the eye, the header first."""

MEAN = "mean"
"""The label of a summary over all labels, each of equal weight."""

RESAMPLES = 2000

_TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95_mm": "HD95",
    "assd_mm": "ASSD",
    "nsd": "NSD",
    "volume_error_pct": "Volume error",
    "precision": "Precision",
    "recall": "Recall",
    "lesion_f1": "Lesion F1",
    "lesion_precision": "Lesion precision",
    "lesion_recall": "Lesions found",
}
_DECIMALS = {"": 3, "mm": 2, "px": 2, "%": 1}


@dataclass(frozen=True, slots=True)
class Score:
    """One measured number.

    Attributes:
        case: what was measured, such as "case_03".
        label: the structure's name.
        metric: such as "dice" or "hd95_mm"; the name is the same where `unit` is "px".
        value: None if there is nothing to measure.
        unit: "mm", "px", "%" or "" for a share.
        note: why, if the value is set by rule.
    """

    case: str
    label: str
    metric: str
    value: float | None
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """One metric of one label over all cases.

    Attributes:
        label: the structure's name, or "mean" over all of them.
        metric: as in `Score`.
        unit: as in `Score`.
        mean: over the cases that have a value; None if none has.
        low: lower end of the 95 % bootstrap interval over patients; None for fewer than two.
        high: upper end.
        n: how many cases have a value.
        absent: how many scores have none.
        cohort: the group of cases it is of; "" for all of them.
    """

    label: str
    metric: str
    unit: str
    mean: float | None
    low: float | None
    high: float | None
    n: int
    absent: int
    cohort: str = ""


@dataclass(frozen=True, eq=False)
class Report:
    """Scores of cases and labels, and what they come to.

    Attributes:
        rows: every score, in the order in which tables show them.
        meta: how they came about: version, tolerance, warnings, …
        cohorts: case -> the group it belongs to, such as a scanner; empty where there are none.
        patients: case -> whose it is; a case that is not named here is a patient of its own. Scans of one patient are
            alike, so intervals and tests draw patients, not cases.
    """

    rows: tuple[Score, ...]
    meta: Mapping[str, Json] = field(default_factory=dict)
    cohorts: Mapping[str, str] = field(default_factory=dict)
    patients: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def cases(self) -> tuple[str, ...]:
        """The cases, in order of appearance."""
        return tuple(dict.fromkeys(row.case for row in self.rows))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels, in order of appearance."""
        return tuple(dict.fromkeys(row.label for row in self.rows))

    @cached_property
    def metrics(self) -> Mapping[str, str]:
        """The unit of each metric, in order of appearance."""
        return {row.metric: row.unit for row in self.rows}

    @cached_property
    def summary(self) -> tuple[Summary, ...]:
        """Mean and interval of every metric, label by label; with several labels also over all of them."""
        return self._summarised()

    @cached_property
    def cohort_summary(self) -> tuple[Summary, ...]:
        """The summary of each cohort by itself, in alphabetical order."""
        parts = []
        for cohort in sorted(set(self.cohorts.values())):
            kept = [index for index, case in enumerate(self.cases) if self.cohorts.get(case) == cohort]
            parts += [replace(row, cohort=cohort) for row in self._summarised(kept)]
        return tuple(parts)

    def _summarised(self, cases: Sequence[int] | None = None) -> tuple[Summary, ...]:
        rows = range(len(self.cases)) if cases is None else cases
        patients = self.patients_of([self.cases[row] for row in rows])
        groups = [(label, [index]) for index, label in enumerate(self.labels)]
        if len(groups) > 1:
            groups.append((MEAN, list(range(len(groups)))))
        values = {metric: self.values(metric)[rows] for metric in self.metrics}
        return tuple(
            _summarised(label, metric, unit, values[metric][:, columns], patients)
            for label, columns in groups
            for metric, unit in self.metrics.items()
        )

    def patients_of(self, cases: Sequence[str]) -> list[str]:
        """Return whose each case is."""
        return [self.patients.get(case, case) for case in cases]

    def values(self, metric: str) -> NDArray[np.float64]:
        """Return one metric as (cases, labels) float64, NaN where there is no value."""
        table = np.full((len(self.cases), len(self.labels)), np.nan)
        case_index = {case: index for index, case in enumerate(self.cases)}
        label_index = {label: index for index, label in enumerate(self.labels)}
        for row in self.rows:
            if row.metric == metric and row.value is not None:
                table[case_index[row.case], label_index[row.label]] = row.value
        return table

    def to_json(self) -> dict[str, Json]:
        """Return {"rows", "summary", "meta"} for `write_json`, with cohorts also these and their summary."""
        rows = [asdict(row) for row in self.rows]
        content: dict[str, Json] = {"rows": rows, "summary": [asdict(row) for row in self.summary]}
        if self.cohorts:
            content["cohorts"] = dict(self.cohorts)
            content["cohort_summary"] = [asdict(row) for row in self.cohort_summary]
        if self.patients:
            content["patients"] = dict(self.patients)
        return {**content, "meta": dict(self.meta)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the report that `to_json` was called on; its summary is computed anew."""
        rows = tuple(Score(**row) for row in content["rows"])
        return cls(rows, content.get("meta", {}), content.get("cohorts", {}), content.get("patients", {}))

    def summary_table(self, metrics: Sequence[str] | None = None) -> Table:
        """Return label, cases, absent and each metric's mean with interval, as text for the eye; the header first."""
        return _table_of(self.summary, self._chosen(metrics), first=lambda row: [row.label])

    def cohort_table(self, metrics: Sequence[str] | None = None) -> Table:
        """Return the same by cohort."""
        header, *rows = _table_of(self.cohort_summary, self._chosen(metrics), first=lambda row: [row.cohort, row.label])
        return [["Cohort", *header], *rows]

    def _chosen(self, metrics: Sequence[str] | None) -> Mapping[str, str]:
        return {name: unit for name, unit in self.metrics.items() if metrics is None or name in metrics}

    def case_table(self) -> Table:
        """Return case, label, each metric and the note, as text for the eye; the header first."""
        rows: Table = [["Case", "Label", *(_title(*metric) for metric in self.metrics.items()), "Note"]]
        grouped: dict[tuple[str, str], dict[str, Score]] = {}
        for row in self.rows:
            grouped.setdefault((row.case, row.label), {})[row.metric] = row
        for (case, label), scores in grouped.items():
            values = [number_text(scores[m].value, unit) if m in scores else "–" for m, unit in self.metrics.items()]
            rows.append([case, label, *values, next(iter(scores.values())).note])
        return rows


@dataclass(frozen=True, slots=True)
class Difference:
    """How two sets of predictions of the same cases differ in one metric of one label.

    Attributes:
        label: the structure's name, or "mean" over all of them.
        metric: as in `Score`.
        unit: as in `Score`.
        n: how many patients both have a value for.
        first: mean of the first set over these cases.
        second: mean of the second set.
        difference: mean of first minus second.
        low: lower end of its 95 % bootstrap interval; None for fewer than two patients.
        high: upper end.
        p_value: of the two-sided Wilcoxon signed-rank test; None for fewer than two patients.
        effect: matched-pairs rank-biserial correlation, from -1 (second larger in every patient) to 1 (first larger).
        note: what to keep in mind when reading it.
    """

    label: str
    metric: str
    unit: str
    n: int = 0
    first: float = 0.0
    second: float = 0.0
    difference: float = 0.0
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    effect: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired differences between two reports.

    Attributes:
        rows: one for each metric of each label, "mean" last.
        warnings: cases that only one of them has, and the like.
    """

    rows: tuple[Difference, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Return {"rows", "warnings"} for `write_json`."""
        return {"rows": [asdict(row) for row in self.rows], "warnings": list(self.warnings)}

    def table(self, metrics: Sequence[str] | None = None) -> Table:
        """Return the rows, of all metrics or of some, as text for the eye, the header first."""
        rows: Table = [["Label", "Metric", "Patients", "First", "Second", "Difference", "p", "Effect", "Note"]]
        for row in self.rows:
            if metrics is not None and row.metric not in metrics:
                continue
            means = [number_text(value, row.unit) for value in (row.first, row.second)]
            p_value = "–" if row.p_value is None else "<0.001" if row.p_value < 0.001 else f"{row.p_value:.3f}"
            change = _with_interval(row.difference, row.low, row.high, row.unit, signed=True)
            name = [row.label, _title(row.metric, row.unit), str(row.n)]
            rows.append([*name, *means, change, p_value, f"{row.effect:+.2f}", row.note])
        return rows


def bootstrap_interval(
    values: NDArray[np.float64], patients: Sequence[str] | None = None, *, seed: int = 0
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of the mean over cases, then over labels.

    Patients are drawn, each with all of its cases: two scans of one patient say less than scans of two.

    Args:
        values: (cases, labels) float64, NaN where a case has no value.
        patients: whose each case is; None where every case is another patient's.
        seed: of the resampling; equal seeds draw equal patients.

    Returns:
        Lower and upper end, or None if fewer than two patients have a value.
    """
    there = ~np.isnan(values)
    kept = there.any(axis=1)
    own = np.arange(len(values)) if patients is None else np.unique(patients, return_inverse=True)[1]
    _, whose = np.unique(own[kept], return_inverse=True)
    n = int(whose.max(initial=-1)) + 1
    if n < 2:
        return None
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    weights = drawn[:, whose].astype(np.float64)
    counts = weights @ there[kept]
    sums = weights @ np.nan_to_num(values[kept])
    means = _mean_over_labels(np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _mean_over_labels(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each row's numbers, NaN left out; every row has at least one."""
    there = ~np.isnan(means)
    result: NDArray[np.float64] = np.nan_to_num(means).sum(axis=1) / there.sum(axis=1)
    return result


def macro_mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean over cases, then over labels, of (cases, labels) values; None if all are NaN."""
    columns = [column[~np.isnan(column)] for column in values.T]
    means = [float(column.mean()) for column in columns if column.size]
    return sum(means) / len(means) if means else None


def _summarised(label: str, metric: str, unit: str, values: NDArray[np.float64], patients: Sequence[str]) -> Summary:
    there = ~np.isnan(values)
    low, high = bootstrap_interval(values, patients) or (None, None)
    n, absent = int(there.any(axis=1).sum()), int((~there).sum())
    return Summary(label, metric, unit, macro_mean(values), low, high, n, absent)


def _table_of(rows: Sequence[Summary], metrics: Mapping[str, str], *, first: Callable[[Summary], list[str]]) -> Table:
    """Return summaries, all metrics of a label in one line."""
    lines: dict[tuple[str, str], list[Summary]] = {}
    for row in rows:
        if row.metric in metrics:
            lines.setdefault((row.cohort, row.label), []).append(row)
    table: Table = [["Label", "Cases", "Absent", *(_title(*metric) for metric in metrics.items())]]
    for cells in lines.values():
        table.append([*first(cells[0]), str(cells[0].n), str(cells[0].absent), *map(_interval_text, cells)])
    return table


def number_text(value: float | None, unit: str, *, signed: bool = False) -> str:
    """Return a value rounded for the eye, without its unit.

    >>> number_text(0.91234, ""), number_text(3.14159, "mm"), number_text(None, "")
    ('0.912', '3.14', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:{'+' if signed else ''}.{_DECIMALS.get(unit, 3)}f}"


def _title(metric: str, unit: str) -> str:
    return f"{_TITLES.get(metric, metric)} ({unit})" if unit else _TITLES.get(metric, metric)


def _interval_text(row: Summary) -> str:
    return _with_interval(row.mean, row.low, row.high, row.unit)


def _with_interval(
    mean: float | None, low: float | None, high: float | None, unit: str, *, signed: bool = False
) -> str:
    text = number_text(mean, unit, signed=signed)
    if low is None or high is None:
        return text
    return f"{text} [{number_text(low, unit, signed=signed)}, {number_text(high, unit, signed=signed)}]"
