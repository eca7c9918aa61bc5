"""What amsam promises, read off results: how soon it is nearly as good as it gets, and whether what it expects is true.

`--method NAME@STEPS` of `amsam bench fewshot` runs an arm for so many steps; the forecast of each run is in its result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from amsam_cli.bench.record import Result
from amsam_cli.report import markdown_rows
from amsam_cli.report.scores import macro_mean

NEARLY = 0.95
"""Share of the Dice at most steps from which an arm counts as converged."""


def convergence_table(results: Sequence[Result]) -> str:
    """Return Markdown: Dice of each arm at each number of steps, and the fewest that reach 95 % of that at most.

    Means are over the sets, shots and seeds that an arm has at every number of its steps.

    >>> convergence_table([])
    'No results of a method such as amsam-prompts@15 yet.'
    """
    arms: dict[str, dict[int, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        name, _, steps = result.method.partition("@")
        if steps:
            arms[name][int(steps)].append(result)
    if not arms:
        return "No results of a method such as amsam-prompts@15 yet."
    counts = sorted({steps for by_steps in arms.values() for steps in by_steps})
    lines = [
        ["Arm", "Draws", *(f"{steps} steps" for steps in counts), "Steps to 95 %"],
        ["---", *["---:"] * (len(counts) + 2)],
    ]
    for name, by_steps in arms.items():
        draws = set.intersection(*({_draw(each) for each in found} for found in by_steps.values()))
        dice = {steps: _mean_dice([r for r in found if _draw(r) in draws]) for steps, found in sorted(by_steps.items())}
        enough = [steps for steps, value in dice.items() if value >= NEARLY * dice[max(dice)]]
        cells = [f"{dice[steps]:.3f}" if steps in dice else "–" for steps in counts]
        lines.append([name, str(len(draws)), *cells, str(enough[0])])
    return markdown_rows(lines)


def forecast_table(results: Sequence[Result]) -> str:
    """Return Markdown: the Dice that each run expected of each label beside that of its scans, and how they correlate.

    >>> forecast_table([])
    'No result has a forecast yet.'
    """
    rows = [
        (result, label, expected, true)
        for result in results
        for label, expected in result.forecast.items()
        if (true := _true_dice(result, label)) is not None
    ]
    if not rows:
        return "No result has a forecast yet."
    lines = [
        ["Set", "Shots", "Seed", "Method", "Label", "Forecast", "True"],
        ["---", *["---:"] * 2, "---", "---", *["---:"] * 2],
    ]
    for result, label, expected, true in rows:
        where = [result.set, str(result.shots), str(result.seed), result.method, label]
        lines.append([*where, f"{expected:.3f}", f"{true:.3f}"])
    table = markdown_rows(lines)
    return f"{table}\n\n{_correlation([row[2] for row in rows], [row[3] for row in rows])}"


def expectation_table(results: Sequence[Result]) -> str:
    """Return Markdown: how the Dice expected of single masks goes with what they have, for each set and over all.

    Masks of a label that is not there count with a Dice of 0.

    >>> expectation_table([])
    'No result says what it expected of its masks yet.'
    """
    pairs: dict[tuple[str, str, int], list[tuple[float, float]]] = defaultdict(list)
    for result in results:
        for case in result.cases:
            for label, expected in case.expected.items():
                true = case.scores.get(label, {}).get("dice")
                pairs[result.method, result.set, result.shots].append((expected, true or 0.0))
    if not pairs:
        return "No result says what it expected of its masks yet."
    lines = [
        ["Method", "Set", "Shots", "Masks", "Expected", "True", "Error", "Spearman"],
        ["---", "---", *["---:"] * 6],
    ]
    for method in dict.fromkeys(method for method, _, _ in pairs):
        own = {key: found for key, found in pairs.items() if key[0] == method}
        rows = [*own.items(), ((method, "all", 0), [pair for found in own.values() for pair in found])]
        lines += [_expectation(*key, *zip(*found, strict=True)) for key, found in rows]
    return markdown_rows(lines)


def _expectation(method: str, where: str, shots: int, expected: Sequence[float], true: Sequence[float]) -> list[str]:
    """Return a row of the table of expectations."""
    varies = len(true) > 2 and np.ptp(expected) > 0 and np.ptp(true) > 0
    ranks = f"{stats.spearmanr(expected, true).statistic:.2f}" if varies else "–"
    error = float(np.abs(np.subtract(expected, true)).mean())
    means = [f"{np.mean(expected):.3f}", f"{np.mean(true):.3f}"]
    return [method, where, str(shots or "–"), str(len(true)), *means, f"{error:.3f}", ranks]


def _correlation(expected: Sequence[float], true: Sequence[float]) -> str:
    """Return in words how two series of at least two go together."""
    error = float(np.mean(np.subtract(expected, true)))
    text = f"{len(true)} labels; the forecast is {error:+.3f} off on the mean"
    if len(true) < 3 or np.ptp(expected) == 0 or np.ptp(true) == 0:
        return f"{text}; too few to correlate."
    linear, ranks = stats.pearsonr(expected, true), stats.spearmanr(expected, true)
    return f"{text}; Pearson's r {linear.statistic:.2f}, Spearman's rho {ranks.statistic:.2f}."


def _draw(result: Result) -> tuple[str, int, int]:
    return result.set, result.shots, result.seed


def _mean_dice(results: Sequence[Result]) -> float:
    """Return the mean over results, each counting once."""
    values = [macro_mean(result.report().values("dice")) or 0.0 for result in results]
    return float(np.mean(values)) if values else 0.0


def _true_dice(result: Result, label: str) -> float | None:
    """Return the mean Dice of one label over the scans that show it."""
    found: list[Mapping[str, float | None]] = [case.scores.get(label, {}) for case in result.cases]
    values = [scores["dice"] for scores in found if scores.get("dice") is not None]
    return float(np.mean([value for value in values if value is not None])) if values else None
