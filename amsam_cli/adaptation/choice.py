"""Which annotated slices to learn from: the most informative ones. Knows label areas and places, no pictures."""

from __future__ import annotations

from collections.abc import Sequence

from amsam_cli.io import Candidate

APART = 0.25
"""Share of a scan's depth beyond which two slices count as different views."""


def choose(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Return the `count` most informative candidates, in the order chosen; all of them if there are fewer.

    Greedy: each next slice is the one that adds most, by labels shown too rarely so far, then by patients not yet
    seen, then by distance in depth from slices already chosen, then by how much of its labels it shows.
    """
    largest: dict[int, int] = {}
    for candidate in candidates:
        for label, area in candidate.areas.items():
            largest[label] = max(largest.get(label, 0), area)
    chosen: list[Candidate] = []
    remaining = list(candidates)
    while remaining and len(chosen) < count:
        best = max(remaining, key=lambda candidate: _gain(candidate, chosen, largest))
        chosen.append(best)
        remaining.remove(best)
    return chosen


def _gain(candidate: Candidate, chosen: Sequence[Candidate], largest: dict[int, int]) -> tuple[float, str]:
    """Return how much a candidate adds to those chosen; ties go by name, so that the choice never depends on order."""
    shown = {label: sum(label in other.areas for other in chosen) for label in largest}
    coverage = sum(
        (area / largest[label]) ** 0.5 / (1 + shown[label]) for label, area in candidate.areas.items() if area
    )
    same_patient = [other for other in chosen if other.pair.patient == candidate.pair.patient]
    crowded = 1 / (1 + len(same_patient))
    # Neighbouring slices of one patient show the same thing twice; of two patients they still show two patients.
    own = _apart(candidate, same_patient) / APART
    any_patient = _apart(candidate, chosen) / APART
    return coverage * (0.5 + crowded) * (0.1 + 0.9 * own) * (0.7 + 0.3 * any_patient), candidate.origin


def _apart(candidate: Candidate, others: Sequence[Candidate]) -> float:
    """Return how far in depth a candidate is from the nearest of others, at most `APART`."""
    return min([APART, *(abs(other.position - candidate.position) for other in others)])
