"""How well an adapter should do on new scans: refits without each held-out patient, judged on what was held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amsam_cli.adaptation.lesson import Lesson
from amsam_cli.adaptation.weighing import Evidence, look_ahead
from amsam_cli.adapter import Adapter
from amsam_cli.metrics import dice
from amsam_cli.models.base import OnStep
from amsam_cli.segmentation import Plan, segment
from amsam_cli.volume import Shot

FOLDS = 4
FRESH_FOLDS = 2
"""Where the encoder is tuned, a refit costs as much as the fit itself."""
FOUND = 0.05
"""Mean Dice on the shots held out, under which a refit found nothing."""
NEIGHBOURS = 3
"""Slices on either side of a held-out one that the forecast segments with it."""

Learn = Callable[[Lesson], Adapter]
_Scored = tuple[int, Mapping[int, float]]
"""A shot's number and the Dice of each label it shows."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Dice of each label on shots held out, tuned and, where that was asked for, untuned.

    Attributes:
        tuned: label value -> mean Dice.
        plain: the same for adapters of the same shots that were not tuned; empty where those were not asked for.
        gains: what tuning brought to each patient held out, as the mean over its shots and labels.
        found: mean Dice of each tuned refit on what was held out from it.
        is_halved: whether the refits learned from half of the shots, as they do of two patients and where the encoder
            is tuned: then their gains are less than what the whole fit brings.
        evidence: what looks tuned without them say of the shots, for each scale and label, None of labels that no other
            shot shows; empty where the encoder is frozen.
    """

    tuned: Mapping[int, float]
    plain: Mapping[int, float]
    gains: tuple[float, ...] = ()
    found: tuple[float, ...] = ()
    is_halved: bool = False
    evidence: tuple[tuple[Evidence | None, ...], ...] = ()

    @property
    def helps(self) -> bool:
        """Whether tuning is kept: there is a gain, over patients, no smaller than the standard error of that gain.

        Where the refits learned from half of the shots the doubt is on its side: it is kept unless one of them found
        nothing at all.
        """
        if not self.gains:
            return True
        if self.is_halved:
            return min(self.found, default=0.0) >= FOUND
        gain = float(np.mean(self.gains))
        error = float(np.std(self.gains, ddof=1)) / math.sqrt(len(self.gains)) if len(self.gains) > 1 else 0.0
        return gain > 0 and gain >= error


def hold_out(lesson: Lesson, learn: Learn, learn_plain: Learn | None, report: OnStep) -> Forecast | None:
    """Return each label's Dice on shots held out with their patient (each shot, if there is one patient).

    Every fold refits from scratch and segments the held-out slice among its neighbours by the same code as any scan.
    None where nothing can be held out. A label has no Dice where no refit was shown it.
    """
    folds = make_folds(lesson.patients, most=FOLDS if lesson.kept else FRESH_FOLDS)
    if not folds:
        return None
    tuned: list[_Scored] = []
    plain: list[_Scored] = []
    seen: list[list[list[Evidence | None]]] = []
    for number, held_out in enumerate(folds):
        report("forecast", number, len(folds))
        kept = lesson.only([index for index in range(len(lesson.stills)) if index not in held_out])
        known = [value for value, there in zip(lesson.labels, kept.shown.any(dim=0).tolist(), strict=True) if there]
        for make, found in ((learn, tuned), (learn_plain, plain)):
            if make is None:
                continue
            adapter = make(kept)
            found += [(index, _score(lesson.stills[index].shot, adapter, lesson, known)) for index in held_out]
            if make is learn and not lesson.kept:
                seen.append(_look_ahead(lesson, adapter, held_out))
    report("forecast", len(folds), len(folds))
    gains = _gains(tuned, plain, lesson.patients)
    return Forecast(_means(tuned), _means(plain), gains, _found(tuned, folds), len(folds) == 2, _joined(seen))


def _look_ahead(lesson: Lesson, adapter: Adapter, held_out: Sequence[int]) -> list[list[Evidence | None]]:
    """Return what an adapter's looks say of the shots held out, for each scale and label."""
    with adapter.attach(lesson.model):
        scales = zip(adapter.sights.values(), lesson.only(held_out).scales(), strict=True)
        return [look_ahead(lesson, adapter, sight, examples) for sight, examples in scales]


def _joined(folds: Sequence[Sequence[Sequence[Evidence | None]]]) -> tuple[tuple[Evidence | None, ...], ...]:
    """Return the evidence of all folds, for each scale and label."""
    scales = []
    for scale in zip(*folds, strict=True):
        labels = [[part for part in parts if part is not None] for parts in zip(*scale, strict=True)]
        scales.append(tuple(Evidence.cat(parts) if parts else None for parts in labels))
    return tuple(scales)


def make_folds(patients: Sequence[str], *, most: int = FOLDS) -> list[list[int]]:
    """Return which shots each fold holds out: by patient, or by shot where there is one patient; at most `most`.

    >>> make_folds(["a", "a", "b"])
    [[0, 1], [2]]
    >>> make_folds(["a", "b", "c", "d"], most=2)
    [[0, 2], [1, 3]]
    >>> make_folds(["a"])
    []
    """
    names = sorted(set(patients))
    groups = [[index for index, patient in enumerate(patients) if patient == name] for name in names]
    if len(groups) == 1:
        groups = [[index] for index in groups[0]]
    if len(groups) < 2:
        return []
    merged: list[list[int]] = [[] for _ in range(min(most, len(groups)))]
    for number, group in enumerate(groups):
        merged[number % len(merged)] += group
    return merged


def _score(shot: Shot, adapter: Adapter, lesson: Lesson, known: Sequence[int]) -> dict[int, float]:
    """Return the Dice of each known label that the shot shows, segmented among its neighbouring slices."""
    scan = shot.scan()
    middle = round(shot.position * (scan.depth - 1))
    first, last = max(0, middle - NEIGHBOURS), min(scan.depth, middle + NEIGHBOURS + 1)
    plan = Plan(asks_back=False)
    result = segment(scan.part(first, last), adapter, lesson.model, memory_model=lesson.memory_model, plan=plan)
    found = result.labels.slice(middle - first)
    values = [value for value in shot.labels.values() if value in known]
    return {value: dice(found.mask(value), shot.labels.mask(value)) or 0.0 for value in values}


def _means(found: Sequence[_Scored]) -> dict[int, float]:
    """Return label value -> mean Dice over the shots that show it, ascending."""
    values = sorted({value for _, scores in found for value in scores})
    return {value: float(np.mean([scores[value] for _, scores in found if value in scores])) for value in values}


def _found(tuned: Sequence[_Scored], folds: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Return the mean Dice over the shots and labels of each fold that could be scored."""
    by_fold = [[value for shot, scores in tuned if shot in fold for value in scores.values()] for fold in folds]
    return tuple(float(np.mean(values)) for values in by_fold if values)


def _gains(tuned: Sequence[_Scored], plain: Sequence[_Scored], patients: Sequence[str]) -> tuple[float, ...]:
    """Return the mean difference in Dice of each patient; of each shot, where there is one patient."""
    by_owner: dict[object, list[float]] = {}
    is_alone = len(set(patients)) == 1
    for (shot, after), (_, before) in zip(tuned, plain, strict=False):
        owner = shot if is_alone else patients[shot]
        by_owner.setdefault(owner, []).extend(after[value] - before[value] for value in after)
    return tuple(float(np.mean(each)) for each in by_owner.values() if each)
