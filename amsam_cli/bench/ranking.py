"""Results side by side, as Markdown: every set and shot count a row, every method a column; and who beats whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from amsam_cli.bench.contenders import AVAILABLE_METHODS
from amsam_cli.bench.record import BEYOND, Result, joined
from amsam_cli.evaluation import compare
from amsam_cli.report import Difference, Report, Score, Summary, markdown_rows
from amsam_cli.report.scores import number_text

Column = tuple[str, str]
"""A method's name and version."""

NOTHING = "–"
"""What stands in a cell that has no value."""

ENOUGH = 0.5
"""Share of the scans of the method that has run on most."""

Scores = Mapping[tuple[str, str], float]
"""Patient, and scan with its seed -> Dice."""


def table(results: Sequence[Result]) -> str:
    """Return results as Markdown: mean Dice and HD95 with intervals, seconds, and paired tests of the ranking.

    Means are over labels, each of equal weight, and over the query scans of all seeds; the 95 % interval resamples
    their patients. A cell that has fewer seeds than others of its row, or was under-trained, says so.

    >>> table([])
    'No results yet.'
    """
    if not results:
        return "No results yet."
    parts = [
        dice_grid(results),
        grid("HD95, mean [95 % interval]", results, lambda cell: mean_text(cell, "hd95_mm", cell[0].unit)),
        grid("Seconds to learn + seconds a scan, of the processor where it was measured", results, _seconds),
    ]
    duels = rank(results)
    if duels:
        parts.append(duel_table(duels))
    return "\n\n".join(parts)


def dice_grid(results: Sequence[Result]) -> str:
    """Return Dice with intervals as Markdown; below the sets, for each shot count, the mean of those of all sets.

    A method that has not run on all of them has no such mean; where none has, there is no such row. Fewer runs than
    others have, and runs under-trained, are noted there as they are in the rows above.
    """
    parts = [grid("Dice, mean [95 % interval]", results, lambda cell: mean_text(cell, "dice", ""))]
    for shots, cells in _by_method_and_set(results):
        if len(cells[0]) > 1 and any(all(row) for row in cells):
            scans = max(sum(len(result.cases) for cell in row for result in cell) for row in cells)
            name = f"**mean of {len(cells[0])} sets**"
            parts.append(markdown_rows([[name, str(shots), str(scans), *_means_of_sets(cells, _dice)]]))
    return "\n".join(parts)


def beside_grid(results: Sequence[Result]) -> str:
    """Return as Markdown what Dice does not tell, for each shot count in the mean over all sets: surfaces, seconds.

    "" where no method has run on all of them.
    """
    lines = [["Mean of the sets", "Shots", *(" ".join(column) for column in columns_of(results))]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for shots, cells in _by_method_and_set(results):
        for name, how in _BESIDE.items():
            means = _means_of_sets(cells, *how)
            if set(means) != {NOTHING}:
                lines.append([name, str(shots), *means])
    return f"**Beside Dice**\n\n{markdown_rows(lines)}" if len(lines) > 2 else ""


def _by_method_and_set(results: Sequence[Result]) -> Iterator[tuple[int, list[list[list[Result]]]]]:
    """Yield each shot count, and for each column the results on each set that anybody has run with it."""
    columns = columns_of(results)
    for shots in sorted({result.shots for result in results}):
        here = [result for result in results if result.shots == shots]
        sets = sorted({result.set for result in here})
        cells = [[[r for r in here if (r.set, column_of(r)) == (name, column)] for name in sets] for column in columns]
        yield shots, cells


def _means_of_sets(
    cells: Sequence[Sequence[Sequence[Result]]], value: Callable[[Sequence[Result]], float | None], decimals: int = 3
) -> list[str]:
    """Return for each method the mean of a set's value over the sets; `NOTHING` for a method that lacks one."""
    most = max(len(_runs(row)) for row in cells)

    def text(row: Sequence[Sequence[Result]]) -> str:
        values = [value(cell) if cell else None for cell in row]
        known = [found for found in values if found is not None]
        return _noted(f"{np.mean(known):.{decimals}f}", _runs(row), most, "runs") if len(known) == len(row) else NOTHING

    return [text(row) for row in cells]


def _runs(row: Sequence[Sequence[Result]]) -> list[Result]:
    return [result for cell in row for result in cell]


def grid(title: str, results: Sequence[Result], text: Callable[[list[Result]], str]) -> str:
    """Return a Markdown table with a title, a row for each set and shot count, a column for each method."""
    columns = columns_of(results)
    lines = [["Set", "Shots", "Scans", *(f"{name} {version}" for name, version in columns)]]
    lines.append(["---", *["---:"] * (len(columns) + 2)])
    for (name, shots), group in groupby(sorted(results, key=_row), key=_row):
        here = list(group)
        cells = [[each for each in here if column_of(each) == column] for column in columns]
        most = max(len(cell) for cell in cells)
        scans = max(sum(len(each.cases) for each in cell) for cell in cells)
        filled = [_noted(text(cell), cell, most) if cell else NOTHING for cell in cells]
        lines.append([name, str(shots), str(scans), *filled])
    return f"**{title}**\n\n{markdown_rows(lines)}"


def column_of(result: Result) -> Column:
    """Return the column a result stands in."""
    return result.method, result.version


def columns_of(results: Sequence[Result]) -> list[Column]:
    """Return the columns in the order of `AVAILABLE_METHODS`, others after them."""
    known = list(AVAILABLE_METHODS)
    return sorted(
        {column_of(result) for result in results},
        key=lambda column: (known.index(column[0]) if column[0] in known else len(known), column),
    )


def _row(result: Result) -> tuple[str, int]:
    return result.set, result.shots


def _noted(text: str, cell: Sequence[Result], most: int, what: str = "seeds") -> str:
    notes = [f"{len(cell)} of {most} {what}"] if len(cell) < most else []
    notes += [] if all(result.is_fair for result in cell) else ["under-trained"]
    return f"{text} ({', '.join(notes)})" if notes else text


def mean_text(cell: Sequence[Result], metric: str, unit: str) -> str:
    """Return the mean of a metric over labels and scans, with its interval where there are two patients or more."""
    found = summary_of(cell, metric)
    mean = f"{number_text(found.mean, unit)}{f' {unit}' if unit else ''}"
    if found.low is None:
        return mean
    return f"{mean} [{number_text(found.low, unit)}, {number_text(found.high, unit)}]"


def summary_of(cell: Sequence[Result], metric: str) -> Summary:
    """Return the mean of a metric over labels and scans, its interval drawn over patients."""
    return [row for row in joined(cell).summary if row.metric == metric][-1]


def _dice(cell: Sequence[Result]) -> float:
    return summary_of(cell, "dice").mean or 0.0


def _nsd(cell: Sequence[Result]) -> float:
    return summary_of(cell, "nsd").mean or 0.0


def _beyond(cell: Sequence[Result]) -> float | None:
    """Return the mean over labels and scans; None where a result of an earlier version did not count them."""
    counts = [scores.get(BEYOND) for result in cell for found in result.cases for scores in found.scores.values()]
    known = [count for count in counts if count is not None]
    return float(np.mean(known)) if known and len(known) == len(counts) else None


def _learning_s(cell: Sequence[Result]) -> float:
    return float(np.mean([_busy(result, result.fit_cpu_s, result.fit_s) for result in cell]))


def _scan_s(cell: Sequence[Result]) -> float:
    return float(np.mean([_busy(result, found.cpu_s, found.seconds) for result in cell for found in result.cases]))


def _seconds(cell: Sequence[Result]) -> str:
    return f"{_learning_s(cell):.0f} + {_scan_s(cell):.1f}"


def _busy(result: Result, cpu_s: float, seconds: float) -> float:
    """Return seconds of the processor, which other work on a shared machine leaves alone; of a GPU, by the clock."""
    return cpu_s if result.device == "cpu" and cpu_s else seconds


_BESIDE: Mapping[str, tuple[Callable[[Sequence[Result]], float | None], int]] = {
    "NSD at 1 mm, of pictures 1 px": (_nsd, 3),
    "slices beyond a structure, a scan": (_beyond, 2),
    "seconds to learn": (_learning_s, 1),
    "seconds a scan": (_scan_s, 1),
}
"""What is said beside Dice -> its value for a method's results on a set, and decimals."""


@dataclass(frozen=True, slots=True)
class Duel:
    """Two methods compared patient by patient.

    Attributes:
        shots: how many annotated slices both learned from.
        first: the method that ranks highest at this shot count.
        second: another one.
        outcome: the paired difference in Dice over the patients whose scans both segmented.
        p_holm: its p-value, corrected for all duels at this shot count (Holm 1979); None where there is none.
    """

    shots: int
    first: Column
    second: Column
    outcome: Difference
    p_holm: float | None


def rank(results: Sequence[Result]) -> list[Duel]:
    """Return the best method of each shot count against every other one, by Dice; under-trained results are left out.

    The best is who leads most others, each over the scans that both segmented; who has run on fewer than half of the
    scans cannot be: a table grows over weeks, and a few scans that happened to go well must not win it. A patient
    counts by the mean over labels and over the scans and seeds that asked both for it: one who is asked for twice is
    not two.
    """
    duels: list[Duel] = []
    fair = [result for result in results if result.is_fair]
    for shots in sorted({result.shots for result in fair}):
        here = [result for result in fair if result.shots == shots]
        scores = {column: _by_scan([r for r in here if column_of(r) == column]) for column in columns_of(here)}
        duels += _duels(shots, scores)
    return duels


def _duels(shots: int, scores: Mapping[Column, Scores]) -> list[Duel]:
    if len(scores) < 2:
        return []
    best = _best(scores)
    others = [column for column in scores if column != best and scores[best].keys() & scores[column].keys()]
    outcomes = [_outcome(scores[best], scores[other]) for other in others]
    corrected = holm([outcome.p_value for outcome in outcomes])
    return [Duel(shots, best, *each) for each in zip(others, outcomes, corrected, strict=True)]


def _best(scores: Mapping[Column, Scores]) -> Column:
    """Return the method that leads most of the others among those that have run on scans enough."""
    enough = ENOUGH * max(map(len, scores.values()))
    wide = [column for column, each in scores.items() if len(each) >= enough]

    def standing(column: Column) -> tuple[int, float]:
        margins = [_margin(scores[column], scores[other]) for other in wide if other != column]
        return sum(margin > 0 for margin in margins), sum(margins)

    return max(wide, key=standing)


def _margin(first: Scores, second: Scores) -> float:
    """Return by how much a method leads another over the scans that both segmented; 0 if there are none."""
    shared = first.keys() & second.keys()
    return float(np.mean([first[scan] - second[scan] for scan in shared])) if shared else 0.0


def _by_scan(results: Sequence[Result]) -> Scores:
    """Return the Dice of each scan of each set and seed, mean over its labels."""
    found = {}
    for result in results:
        for case in result.cases:
            values = [scores["dice"] for scores in case.scores.values() if scores.get("dice") is not None]
            if values:
                whose = f"{result.set} {case.patient or case.case}"
                found[whose, f"{case.case} {result.seed}"] = float(np.mean(np.array(values, dtype=float)))
    return found


def _outcome(first: Scores, second: Scores) -> Difference:
    """Return the paired difference over patients, of the scans and seeds that both have."""
    shared = sorted(first.keys() & second.keys())
    patients = {" ".join(key): key[0] for key in shared}
    reports = [
        Report(tuple(Score(" ".join(key), "all", "dice", scores[key]) for key in shared), patients=patients)
        for scores in (first, second)
    ]
    return compare(*reports).rows[0]


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number, in the order given; None stays None.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for place, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - place)))
        corrected[index] = highest
    return corrected


def duel_table(duels: Sequence[Duel]) -> str:
    """Return the duels as a Markdown table with a title."""
    lines = [["Shots", "Best", "Against", "Patients", "Dice, difference [95 % interval]", "p", "p, Holm", "Effect"]]
    lines.append(["---:", "---", "---", "---:", "---:", "---:", "---:", "---:"])
    for duel in duels:
        row = duel.outcome
        change = number_text(row.difference, "", signed=True)
        if row.low is not None and row.high is not None:
            change += f" [{number_text(row.low, '', signed=True)}, {number_text(row.high, '', signed=True)}]"
        names = [" ".join(duel.first), " ".join(duel.second)]
        p_values = [_p_text(row.p_value), _p_text(duel.p_holm)]
        lines.append([str(duel.shots), *names, str(row.n), change, *p_values, f"{row.effect:+.2f}"])
    title = "**The ranking's paired tests** (Wilcoxon's signed ranks over patients; effect: rank-biserial correlation)"
    return f"{title}\n\n{markdown_rows(lines)}"


def _p_text(p_value: float | None) -> str:
    return NOTHING if p_value is None else "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
