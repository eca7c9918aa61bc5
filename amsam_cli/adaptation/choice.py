"""Which annotated slices to learn from: those that stand for the others. Knows label areas and places, no pictures."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from amsam_cli.io import Candidate

DEPTH_WEIGHT = 2.0
"""A place at the other end of a scan's annotated slices, beside a label shown in full or not at all."""
PATIENT_WEIGHT = 2.0
"""Another patient, likewise."""
MOST = 2000
"""Candidates that are compared with each other."""


def choose(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Return the `count` candidates that stand best for all of them; all of them if there are fewer.

    They are medoids (Kaufman and Rousseeuw, 1990): the sum of distances from every candidate to the nearest one chosen
    is least, as far as exchanging single ones finds it. Candidates are far apart where they lie at other places of
    their scan, show labels in other sizes, or are of other patients. Each label counts alike, however few show it.
    """
    if count >= len(candidates):
        return list(candidates)
    ordered = _thinned(sorted(candidates, key=lambda candidate: candidate.origin), max(MOST, count))
    return [ordered[index] for index in _medoids(_distances(ordered), _weights(ordered), count)]


def _thinned(candidates: Sequence[Candidate], most: int) -> Sequence[Candidate]:
    """Return about `most` candidates, evenly from those that show the same labels and at least one of each such."""
    step = math.ceil(len(candidates) / most)
    groups: dict[frozenset[int], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[frozenset(candidate.areas)].append(candidate)
    return candidates if step == 1 else [each for group in groups.values() for each in group[::step]]


def _distances(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """Return how different any two candidates are, (N, N)."""
    places = DEPTH_WEIGHT * _places(candidates)[:, None]
    looks = np.concatenate([places, _shares(candidates)], axis=1)
    patients = np.array([candidate.pair.patient for candidate in candidates])
    apart = np.linalg.norm(looks[:, None] - looks[None], axis=-1)
    return np.asarray(apart + PATIENT_WEIGHT * (patients[:, None] != patients[None]))


def _places(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """Return where in its scan each candidate lies, (N,): 0 the first annotated slice, 1 the last."""
    by_scan: dict[str, list[float]] = defaultdict(list)
    for candidate in candidates:
        by_scan[_scan(candidate)].append(candidate.position)
    ends = [(min(by_scan[_scan(each)]), max(by_scan[_scan(each)])) for each in candidates]
    return np.array(
        [
            (each.position - first) / (last - first) if last > first else 0.5
            for each, (first, last) in zip(candidates, ends, strict=True)
        ]
    )


def _scan(candidate: Candidate) -> str:
    return str(candidate.pair.image)


def _areas(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """Return the pixels of every label in every candidate, (N, L)."""
    labels = sorted({label for candidate in candidates for label in candidate.areas})
    return np.array([[candidate.areas.get(label, 0) for label in labels] for candidate in candidates], dtype=float)


def _shares(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """Return each label's width in each candidate beside its largest, (N, L), all labels together at most one apart."""
    areas = _areas(candidates)
    return np.asarray(np.sqrt(areas / areas.max(axis=0).clip(min=1)) / np.sqrt(areas.shape[1]))


def _weights(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """Return how much each candidate counts, (N,): every label one, shared by all that show it."""
    shown = _areas(candidates) > 0
    return np.asarray((shown / shown.sum(axis=0).clip(min=1)).sum(axis=1))


def _medoids(distances: NDArray[np.float64], weights: NDArray[np.float64], count: int) -> list[int]:
    """Return which `count` of N stand for all: one by one, then exchanged for others while that helps."""
    chosen: list[int] = []
    while len(chosen) < count:
        best, _ = _next_medoid(distances, weights, chosen)
        chosen.append(best)
    cost = np.inf
    while True:
        swaps = [(place, *_next_medoid(distances, weights, _without(chosen, place))) for place in range(count)]
        place, best, lower = min(swaps, key=lambda swap: swap[-1])
        if lower >= cost - 1e-9:
            return chosen
        chosen[place], cost = best, lower


def _next_medoid(
    distances: NDArray[np.float64], weights: NDArray[np.float64], chosen: Sequence[int]
) -> tuple[int, float]:
    """Return which one stands best for all beside those chosen, and the sum of distances that leaves."""
    nearest = distances[:, chosen].min(axis=1, initial=np.inf)
    costs = weights @ np.minimum(nearest[:, None], distances)
    costs[list(chosen)] = np.inf
    best = int(costs.argmin())
    return best, float(costs[best])


def _without(chosen: Sequence[int], place: int) -> list[int]:
    return [*chosen[:place], *chosen[place + 1 :]]
