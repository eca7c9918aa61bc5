"""Data sets x shots x seeds x methods -> results, each a small file; what is there already is not run again.

Every method learns from the same slices and segments the same scans of other patients. Several processes may share one
folder of results: each takes what no other has begun. Knows no method but by name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from amsam_cli.bench.base import Expecting, Fitted, Foretelling, Method, Remarked
from amsam_cli.bench.claims import claimed
from amsam_cli.bench.contenders import AVAILABLE_METHODS, load_method
from amsam_cli.bench.machine import describe_machine
from amsam_cli.bench.ranking import table
from amsam_cli.bench.record import CaseResult, Result, read_results, spending
from amsam_cli.bench.splits import SEEDS, DataSet, Split, label_folder, load_splits
from amsam_cli.errors import InputError, ResourceError

if TYPE_CHECKING:
    from amsam_cli.bench.cases import Cases
    from amsam_cli.models.base import OnStep

__all__ = ["AVAILABLE_METHODS", "Selection", "read_results", "run_fewshot", "table"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Selection:
    """What to run.

    Attributes:
        sets: names of data sets; empty for all that are there.
        shots: how many annotated slices; a set with fewer is left out of that count.
        seeds: of the draws.
        methods: names of `AVAILABLE_METHODS`, or methods of one's own.
        device: "auto", "cpu", "cuda", …
        model: of the methods on amsam's models, as `amsam adapt --model` takes it; None = the built-in one.
    """

    sets: Sequence[str] = ()
    shots: Sequence[int] = (1, 4)
    seeds: Sequence[int] = SEEDS
    methods: Sequence[str | Method] = ("amsam", "unet")
    device: str = "auto"
    model: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One method on one draw of one set."""

    dataset: DataSet
    split: Split
    shots: int
    method: Method
    folder: Path
    device: str

    @property
    def blank(self) -> Result:
        """The result before anything is run: where it lies and what it is of."""
        supports = self.split.supports[: self.shots]
        return Result(
            set=self.dataset.name,
            shots=self.shots,
            seed=self.split.seed,
            method=self.method.name,
            version=self.method.version,
            settings=self.method.settings,
            supports=supports,
            queries=self.split.queries,
            device=self.device,
        )


def run_fewshot(
    data: Path,
    output: Path,
    selection: Selection | None = None,
    *,
    splits: Mapping[str, DataSet] | None = None,
    on_step: OnStep | None = None,
) -> list[Result]:
    """Return the results of a selection; those that `output` lacks are run and written there one by one.

    A method that runs out of memory, or whose own package fails on a draw, is left out there with an error in the log;
    what another process is at is left to it.

    Args:
        data: folder of data sets, each with `images` and `labels`.
        output: folder of results, kept over several sittings.
        selection: what to run.
        splits: sets by name with their draws; None = those that come with amsam.
        on_step: told about progress, by task and within each.

    Raises:
        InputError: a set, seed, method or device is not there, or a file of a draw is missing.
        WeightsError: the weights of a method are missing.
    """
    report = on_step or (lambda stage, done, total: None)
    tasks = _tasks(data, selection or Selection(), load_splits() if splits is None else splits)
    for done, task in enumerate(tasks):
        report("bench", done, len(tasks))
        log.info("%s", task.blank.place)
        try:
            _settle(task, output, on_step)
        except ResourceError as err:  # a peer that fails on one draw must not cost the night
            log.error("%s failed and is left out: %s %s", task.blank.place, err, err.hint or "")
    report("bench", len(tasks), len(tasks))
    return [result for task in tasks if (result := _finished(task, output))]


def _settle(task: Task, output: Path, on_step: OnStep | None) -> None:
    """Run a task unless its result is there, or another process has claimed it."""
    if _finished(task, output):
        return
    with claimed(output / task.blank.place) as is_ours:
        if not is_ours:
            log.warning("%s is being run by another process; left to it.", task.blank.place)
        elif not _finished(task, output):  # the other may have been done with it a moment ago
            _run(task, output, on_step)


def _tasks(data: Path, selection: Selection, splits: Mapping[str, DataSet]) -> list[Task]:
    from amsam_cli.models import choose_device

    device = str(choose_device(selection.device))
    sets = _chosen_sets(data, selection.sets, splits)
    model = selection.model
    methods = [load_method(each, device, model=model) if isinstance(each, str) else each for each in selection.methods]
    for dataset in sets:
        for count in sorted(count for count in selection.shots if count > dataset.most_shots):
            log.warning("'%s' has no draw of %d shots; left out. It has %d.", dataset.name, count, dataset.most_shots)
    return [
        Task(dataset, split, count, method, data / dataset.name, device)
        for dataset in sets
        for split in _chosen_splits(dataset, selection.seeds)
        for count in selection.shots
        if count <= dataset.most_shots
        for method in methods
    ]


def _chosen_sets(data: Path, names: Sequence[str], splits: Mapping[str, DataSet]) -> list[DataSet]:
    unknown = [name for name in names if name not in splits]
    if unknown:
        raise InputError(f"There are no splits for a set '{unknown[0]}'.", f"Choose from {', '.join(splits)}.")
    wanted = list(names) or [name for name in splits if (data / name).is_dir()]
    missing = [name for name in wanted if not label_folder(data / name).is_dir()]
    if missing or not wanted:
        what = f"'{data / missing[0]}' has no folder 'labels'" if missing else f"'{data}' holds no known set"
        raise InputError(f"{what}; expected SET/images and SET/labels.", f"Known sets: {', '.join(splits)}.")
    return [splits[name] for name in wanted]


def _chosen_splits(dataset: DataSet, seeds: Sequence[int]) -> list[Split]:
    by_seed = {split.seed: split for split in dataset.splits}
    unknown = [seed for seed in seeds if seed not in by_seed]
    if unknown:
        known = ", ".join(map(str, by_seed))
        raise InputError(f"'{dataset.name}' has no draw of seed {unknown[0]}.", f"Its seeds are {known}.")
    return [by_seed[seed] for seed in seeds]


def _finished(task: Task, output: Path) -> Result | None:
    """Return the result that is there already, if it is of the same slices, scans and settings."""
    blank = task.blank
    if not (output / blank.place).is_file():
        return None
    found = Result.read(output / blank.place)
    return found if found.repeats(blank) else None


def _run(task: Task, output: Path, on_step: OnStep | None) -> Result:
    import torch

    from amsam_cli.bench.cases import Cases
    from amsam_cli.bench.choosing import Choosing

    there = Cases(task.dataset, task.folder)
    drawn, method = task.blank.supports, task.method
    shots = there.shots(method.slices(there, drawn) if isinstance(method, Choosing) else drawn)
    with spending() as spent:
        fitted = method.fit(shots, seed=task.split.seed, on_step=on_step)
    result = replace(
        task.blank,
        unit=shots[0].volume.geometry.unit,
        fit_s=spent.seconds,
        fit_cpu_s=spent.cpu_s,
        cases=tuple(_segment_case(name, fitted, there) for name in task.split.queries),
        threads=torch.get_num_threads(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=describe_machine(task.device),
        notes=fitted.notes if isinstance(fitted, Remarked) else (),
        forecast=fitted.forecast if isinstance(fitted, Foretelling) else {},
    )
    result.write(output)
    return result


def _segment_case(name: str, fitted: Fitted, there: Cases) -> CaseResult:
    from amsam_cli.evaluation import evaluate_maps

    query = there.query(name)
    expected: Mapping[str, float] = {}
    with spending() as spent:
        if isinstance(fitted, Expecting):
            found, expected = fitted.segment_and_expect(query)
        else:
            found = fitted.segment(query)
    labels = there.dataset.labels
    report = evaluate_maps(found, query.truth, names=labels, case=name)
    beyond = {label: slices_beyond(found.mask(value), query.truth.mask(value)) for value, label in labels.items()}
    scored = CaseResult.of(report, spent, beyond, there.patient_of(name))
    return replace(scored, expected=expected)


def slices_beyond(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> int:
    """Return on how many slices a mask (D, H, W) shows what the truth has not there at all.

    >>> slices_beyond(np.array([[[1]], [[1]], [[0]]], bool), np.array([[[1]], [[0]], [[1]]], bool))
    1
    """
    return int((mask.any(axis=(1, 2)) & ~truth.any(axis=(1, 2))).sum())
