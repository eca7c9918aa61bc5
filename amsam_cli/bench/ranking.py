"""Results side by side, as Markdown: every set and shot count a row, every method a column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from amsam_cli.bench.contenders import AVAILABLE_METHODS
from amsam_cli.bench.record import Result
from amsam_cli.report import Report
from amsam_cli.report.scores import bootstrap_interval, macro_mean, number_text

Column = tuple[str, str]
"""A method's name and version."""


def table(results: Sequence[Result]) -> str:
    """Return results as Markdown: mean Dice and HD95 with intervals, and seconds.

    Means are over labels, each of equal weight, and over the query scans of all seeds; the 95 % interval resamples
    these scans. A cell that has fewer seeds than others of its row says so.

    >>> table([])
    'No results yet.'
    """
    if not results:
        return "No results yet."
    parts = (
        ("Dice, mean [95 % interval]", lambda cell: _mean(cell, "dice", "")),
        ("HD95, mean [95 % interval]", lambda cell: _mean(cell, "hd95_mm", cell[0].unit)),
        ("Seconds to learn + seconds a scan", _seconds),
    )
    return "\n\n".join(_grid(title, results, text) for title, text in parts)


def _grid(title: str, results: Sequence[Result], text: Callable[[list[Result]], str]) -> str:
    columns = sorted({_column(result) for result in results}, key=_rank)
    lines = [["Set", "Shots", "Scans", *(f"{name} {version}" for name, version in columns)]]
    lines.append(["---", *["---:"] * (len(columns) + 2)])
    for (name, shots), group in groupby(sorted(results, key=_row), key=_row):
        here = list(group)
        cells = [[each for each in here if _column(each) == column] for column in columns]
        most = max(len(cell) for cell in cells)
        scans = max(sum(len(each.cases) for each in cell) for cell in cells)
        filled = [_noted(text(cell), len(cell), most) if cell else "–" for cell in cells]
        lines.append([name, str(shots), str(scans), *filled])
    return "\n".join([f"**{title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


def _row(result: Result) -> tuple[str, int]:
    return result.set, result.shots


def _column(result: Result) -> Column:
    return result.method, result.version


def _rank(column: Column) -> tuple[int, Column]:
    """Return where a method stands: in the order of `AVAILABLE_METHODS`, others after them."""
    known = list(AVAILABLE_METHODS)
    return (known.index(column[0]) if column[0] in known else len(known)), column


def _noted(text: str, seeds: int, most: int) -> str:
    return text if seeds == most else f"{text} ({seeds} of {most} seeds)"


def _mean(cell: Sequence[Result], metric: str, unit: str) -> str:
    values = Report(tuple(row for result in cell for row in result.rows())).values(metric)
    mean = f"{number_text(macro_mean(values), unit)}{f' {unit}' if unit else ''}"
    interval = bootstrap_interval(values)
    if interval is None:
        return mean
    return f"{mean} [{number_text(interval[0], unit)}, {number_text(interval[1], unit)}]"


def _seconds(cell: Sequence[Result]) -> str:
    learn = float(np.mean([result.fit_s for result in cell]))
    scan = float(np.mean([found.seconds for result in cell for found in result.cases]))
    return f"{learn:.0f} + {scan:.1f}"
