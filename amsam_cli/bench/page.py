"""Results as a fragment of a page, between markers that a later run finds again, and as a plot.

What stands there is written by a command and says when, on what and by which command it was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from amsam_cli.bench.ranking import Column, beside_grid, column_of, columns_of, dice_grid, duel_table, rank, summary_of
from amsam_cli.bench.record import Result
from amsam_cli.bench.speed import Timing, speed_table
from amsam_cli.bench.splits import load_splits
from amsam_cli.errors import InputError
from amsam_cli.io.atomic import atomic_path
from amsam_cli.report import markdown_rows
from amsam_cli.report.files import write_text


def markers(name: str = "") -> tuple[str, str]:
    """Return the lines between which a table stands; a page of several has a name for each.

    >>> markers("memory")
    ('<!-- amsam bench readme memory: begin -->', '<!-- amsam bench readme memory: end -->')
    """
    whose = " ".join(["amsam bench readme", *filter(None, [name])])
    return f"<!-- {whose}: begin -->", f"<!-- {whose}: end -->"


def newest(results: Sequence[Result]) -> list[Result]:
    """Return the results of each method's newest version, by the date of its last run.

    An arm at its several numbers of steps is one method: steps of different code are no curve.
    """
    last: dict[tuple[str, ...], tuple[str, str]] = {}
    for result in results:
        last[_arm(result)] = max(last.get(_arm(result), ("", "")), (result.date, result.version))
    return [result for result in results if result.version == last[_arm(result)][1]]


def _arm(result: Result) -> tuple[str, ...]:
    """Return the method, whatever number of steps follows its "@"."""
    return result.method.partition("@")[:2]


def fragment(results: Sequence[Result], *, folder: str) -> str:
    """Return Markdown: Dice with intervals, what it does not tell, the ranking's tests, and how it was measured.

    Args:
        results: of the versions to show.
        folder: of results, as the command names it.
    """
    duels = rank(results)
    parts = [dice_grid(results), beside_grid(results), duel_table(duels) if duels else "", _origin(results, folder)]
    return "\n\n".join(filter(None, parts))


def speed_fragment(timings: Sequence[Timing], *, repeats: int, groups: Sequence[str], machine: str) -> str:
    """Return Markdown: what was timed, and how.

    Args:
        timings: in order.
        repeats: turns of every work.
        groups: that the command named; empty for what it times by itself.
        machine: what it ran on.
    """
    header, *rows = speed_table(timings)
    rule = ["---", "---", *["---:"] * 3, "---"]
    options = [*(f"--only {group}" for group in groups), f"--repeats {repeats}"]
    today = datetime.now(UTC).date().isoformat()
    origin = _measured(today, machine, f"amsam bench speed {' '.join(options)}")
    return f"{markdown_rows([header, rule, *rows])}\n\n{origin}"


def _origin(results: Sequence[Result], folder: str) -> str:
    days = sorted({result.date[:10] for result in results if result.date})
    span = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "an unknown day"
    machines = sorted({result.machine for result in results if result.machine}) or ["a machine that was not recorded"]
    options = [f"--method {name}" for name in dict.fromkeys(name for name, _ in columns_of(results))]
    options += [f"-k {shots}" for shots in sorted({result.shots for result in results})]
    options += [f"--seed {seed}" for seed in sorted({result.seed for result in results})]
    sets = {result.set for result in results}
    options += [f"--set {name}" for name in sorted(sets)] if sets != load_splits().keys() else []
    command = f"amsam bench fewshot DATA -o {folder} {' '.join(options)}"
    return _measured(span, "; ".join(machines), command)


def _measured(when: str, machine: str, command: str) -> str:
    return f"Measured on {when} on {machine} by\n\n```text\n{command}\n```"


def fill(page: Path, text: str, name: str = "") -> None:
    """Put a text between the markers of a page, in place of what stood there.

    Args:
        page: Markdown.
        text: what is to stand there.
        name: of the markers.

    Raises:
        InputError: the page cannot be read or written, or lacks the markers.
    """
    before, after = around(page, name)
    first, last = markers(name)
    write_text(f"{before}{first}\n\n{text}\n\n{last}{after}", page)


def around(page: Path, name: str = "") -> tuple[str, str]:
    """Return what stands before and after the markers of a page; asked before hours of work, it says what is missing.

    Raises:
        InputError: the page cannot be read, or lacks the markers.
    """
    try:
        content = page.read_text(encoding="utf-8")
    except OSError as err:
        raise InputError(f"'{page}' cannot be read: {err}.", "Give a Markdown file.") from err
    first, last = markers(name)
    before, begin, rest = content.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise InputError(f"'{page}' lacks the lines '{first}' and '{last}'.", "Put both where the table belongs.")
    return before, after


def write_plot(results: Sequence[Result], path: Path) -> None:
    """Draw Dice over the number of shots, a panel for each set, a line with intervals for each method.

    Raises:
        InputError: there are no results, or the folder cannot be written.
    """
    if not results:
        raise InputError("There are no results to plot.", "Run amsam bench fewshot first.")
    import matplotlib.figure

    sets = sorted({result.set for result in results})
    across = min(3, len(sets))
    down = -(-len(sets) // across)
    figure = matplotlib.figure.Figure(figsize=(4.6 * across, 3.4 * down + 0.8), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    shots = sorted({result.shots for result in results})
    for place, name in zip(axes.flat, sets, strict=False):
        _draw_set(place, [result for result in results if result.set == name], columns_of(results))
        place.set_xlim(np.log2(shots[0]) - 0.5, np.log2(shots[-1]) + 0.5)
        place.set_xticks(np.log2(shots), [str(count) for count in shots])
        place.set_title(name, fontsize=10)
    for place in list(axes.flat)[len(sets) :]:
        place.set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    with atomic_path(path) as hidden:
        figure.savefig(hidden, dpi=130, format="png")


def _draw_set(axes: Any, results: Sequence[Result], columns: Sequence[Column]) -> None:
    """Draw one set's methods side by side at each shot count, so that intervals do not hide each other."""
    shots = sorted({result.shots for result in results})
    for number, column in enumerate(columns):
        shift = 0.05 * (number - (len(columns) - 1) / 2)
        mine = [[r for r in results if column_of(r) == column and r.shots == count] for count in shots]
        points = [(np.log2(count) + shift, *_point(cell)) for count, cell in zip(shots, mine, strict=True) if cell]
        x, mean, low, high = zip(*points, strict=True) if points else ((), (), (), ())
        error = np.abs(np.array([np.subtract(mean, low), np.subtract(high, mean)]))
        axes.errorbar(
            x, mean, yerr=error, marker="o", ms=4, lw=1.2, capsize=2, label=" ".join(column), color=f"C{number}"
        )
    axes.set_xlabel("annotated slices")
    axes.set_ylabel("Dice")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)


def _point(cell: Sequence[Result]) -> tuple[float, float, float]:
    found = summary_of(cell, "dice")
    mean = found.mean or 0.0
    return mean, mean if found.low is None else found.low, mean if found.high is None else found.high
