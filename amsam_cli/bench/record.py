"""One method's result on one draw of one set, as a small file: what a resumed benchmark finds again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from amsam_cli.errors import InputError
from amsam_cli.report import Json, Report, Score, read_json, write_json

UNDER_TRAINED = "under-trained"
"""The note of a method that was stopped before it had learned what it could."""

METRICS = ("dice", "hd95_mm", "nsd")
"""Of all that `evaluate` measures, what a result keeps."""

BEYOND = "slices_beyond"
"""A metric of the benchmark's own: how many slices show a label that the reference has not there."""


@dataclass(slots=True)
class Spent:
    """What a piece of work took: seconds by the clock, and of the processor."""

    seconds: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def spending() -> Iterator[Spent]:
    """Measure what the block takes; the figures are there when it ends."""
    spent = Spent()
    clock, processor = time.perf_counter(), time.process_time()
    try:
        yield spent
    finally:
        spent.seconds = round(time.perf_counter() - clock, 3)
        spent.cpu_s = round(time.process_time() - processor, 3)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One segmented scan.

    Attributes:
        case: its name.
        seconds: for the segmentation alone.
        scores: label -> metric -> value, of `METRICS` and `BEYOND`; None where the label is absent in both maps.
        patient: whose scan it is; "" where every scan is another patient's.
        cpu_s: of the processor, whatever else it had to do meanwhile; 0 where it was not measured.
        expected: label -> the Dice that the method expected of its mask; empty where it said nothing.
    """

    case: str
    seconds: float
    scores: Mapping[str, Mapping[str, float | None]]
    patient: str = ""
    cpu_s: float = 0.0
    expected: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, report: Report, spent: Spent, beyond: Mapping[str, int], patient: str = "") -> Self:
        """Return the result of a report on one case, of the labels of which `beyond` counts slices too many."""
        kept = [row for row in report.rows if row.metric in METRICS]
        scores = {
            label: {**{row.metric: row.value for row in kept if row.label == label}, BEYOND: float(count)}
            for label, count in beyond.items()
        }
        return cls(report.cases[0], spent.seconds, scores, patient, spent.cpu_s)


@dataclass(frozen=True, slots=True)
class Result:
    """One method on one draw.

    Attributes:
        set: name of the data set.
        shots: how many annotated slices.
        seed: of the draw and of the method.
        method: its name.
        version: the method's.
        settings: the method's.
        supports: the slices it learned from.
        queries: file names of the scans it segmented.
        unit: of distances, "mm" or "px".
        fit_s: seconds to learn from the shots.
        fit_cpu_s: of the processor, all cores together; 0 where it was not measured.
        cases: in the order of `queries`.
        device: what it ran on.
        threads: how many it used on the processor.
        date: when, ISO 8601.
        machine: processors and GPU, without the machine's name.
        notes: what to keep in mind when reading it; `UNDER_TRAINED` keeps it out of rankings.
        forecast: label -> the Dice that the method expected before it saw a scan; empty where it said nothing.
    """

    set: str
    shots: int
    seed: int
    method: str
    version: str
    settings: Mapping[str, Json]
    supports: tuple[str, ...]
    queries: tuple[str, ...]
    unit: str = "mm"
    fit_s: float = 0.0
    cases: tuple[CaseResult, ...] = field(default=())
    device: str = "cpu"
    threads: int = 1
    date: str = ""
    machine: str = ""
    notes: tuple[str, ...] = ()
    forecast: Mapping[str, float] = field(default_factory=dict)
    fit_cpu_s: float = 0.0

    @property
    def place(self) -> Path:
        """Where it lies in a folder of results."""
        return Path(self.set) / f"{self.shots}-shot_seed-{self.seed}_{self.method}_{self.version}.json"

    @property
    def is_fair(self) -> bool:
        """Whether the method had learned what it could."""
        return UNDER_TRAINED not in self.notes

    def repeats(self, other: Result) -> bool:
        """Return whether it is of the same method, settings, supports and queries as `other`."""
        return _asked(self) == _asked(other)

    def report(self) -> Report:
        """Return every score and whose scan it is of, the seed in the name of the case."""
        rows, patients = list[Score](), dict[str, str]()
        for found in self.cases:
            name = f"{found.case} (seed {self.seed})"
            patients[name] = found.patient or found.case
            rows += [
                Score(name, label, metric, value, self.unit if metric == "hd95_mm" else "")
                for label, values in found.scores.items()
                for metric, value in values.items()
            ]
        return Report(tuple(rows), patients=patients)

    def write(self, folder: Path) -> None:
        """Write it to its place in `folder`.

        Raises:
            InputError: the folder cannot be written.
        """
        write_json(asdict(self), folder / self.place)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the result in a file.

        Raises:
            InputError: it is no result.
        """
        content = read_json(path)
        try:
            cases = tuple(CaseResult(**each) for each in content.pop("cases"))
            for key in ("supports", "queries", "notes"):
                content[key] = tuple(content.get(key, ()))
            return cls(**content, cases=cases)
        except (KeyError, TypeError) as err:
            raise InputError(f"'{path}' is no result of the benchmark: {err}.", "Remove it and run again.") from err


def _asked(result: Result) -> tuple[Any, ...]:
    return result.place, dict(result.settings), result.supports, result.queries


def joined(results: Sequence[Result]) -> Report:
    """Return the scores of several seeds as one report."""
    reports = [result.report() for result in results]
    patients = {case: patient for report in reports for case, patient in report.patients.items()}
    return Report(tuple(row for report in reports for row in report.rows), patients=patients)


def read_results(folder: Path) -> list[Result]:
    """Return every result in a folder and those below it, by file name; none if there is no such folder.

    Raises:
        InputError: a file is no result.
    """
    return [Result.read(path) for path in sorted(folder.glob("*/*.json"))]
