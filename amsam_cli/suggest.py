"""Which slices of a scan a person should annotate next: those an adapter is least sure of, apart from each other.

Knows adapters and scans, no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amsam_cli.adapter import Adapter
from amsam_cli.models.base import MemoryModel, OnStep, PromptableModel
from amsam_cli.segmentation import Plan, Segmentation, segment
from amsam_cli.volume import Volume

APART = 0.15
"""Share of a scan's depth within which a slice tells little that its annotated neighbour does not."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A slice worth annotating.

    Attributes:
        index: of the slice in the volume.
        origin: the slice by name, as `Candidate.origin` has it; "" for a volume that came from no file.
        label: value of the label that is least sure there.
        doubt: how unsure it is, in [0, 1].
    """

    index: int
    origin: str
    label: int
    doubt: float


def suggest_slices(
    volume: Volume,
    adapter: Adapter,
    model: PromptableModel | None = None,
    *,
    memory_model: MemoryModel | None = None,
    count: int = 4,
    on_step: OnStep | None = None,
) -> list[Suggestion]:
    """Return at most `count` slices of a scan that an adapter would learn most from, the most useful first.

    Raises:
        AdapterError: the adapter was made for another model.
    """
    plan = Plan(probabilities=True)
    found = segment(volume, adapter, model, memory_model=memory_model, plan=plan, on_step=on_step)
    doubt = doubts(found)
    return [
        Suggestion(index, origin_of(volume, index), label, round(float(doubt[label][index]), 4))
        for index, label in pick(doubt, count)
    ]


def origin_of(volume: Volume, index: int) -> str:
    """Return a slice by the name `amsam adapt --slices` takes: "scan.nii.gz:41", the index as stored in the file."""
    if volume.source is None:
        return ""
    name = volume.source.path.name
    return name if volume.is_picture else f"{name}:{volume.source.order.stored_index(index, volume.depth)}"


def doubts(found: Segmentation) -> dict[int, NDArray[np.float64]]:
    """Return label value -> (D,) doubt in [0, 1]: high where the label is large, its border soft, its looks at odds.

    Softness is the share of the label's expected area that is a coin toss, 4 p (1 - p) / p summed over the slice.
    """
    result = {}
    for value, probability in found.probabilities.items():
        flat = probability.reshape(len(probability), -1).astype(np.float64)
        area = flat.sum(axis=1)
        softness = np.clip(4 * (flat * (1 - flat)).sum(axis=1) / np.maximum(area, 1.0), 0, 1)
        sureness = found.confidence[value] * (1 - softness)
        result[value] = np.sqrt(area / max(float(area.max()), 1.0)) * (1 - sureness)
    return result


def pick(doubt: Mapping[int, NDArray[np.float64]], count: int) -> list[tuple[int, int]]:
    """Return (slice, label) of most doubt, each next one counting less the nearer it lies to those picked before.

    >>> pick({1: np.array([0.1, 0.9, 0.55, 0.1, 0.1, 0.1, 0.1, 0.5])}, 2)
    [(1, 1), (7, 1)]
    """
    values = [*doubt]
    stacked = np.stack([doubt[value] for value in values])
    worst, label = stacked.max(axis=0), stacked.argmax(axis=0)
    picked: list[int] = []
    while len(picked) < min(count, len(worst)):
        gain = worst * _distance(picked, len(worst))
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        picked.append(best)
    return [(index, values[label[index]]) for index in picked]


def _distance(picked: Sequence[int], depth: int) -> NDArray[np.float64]:
    """Return how far each slice is from those picked, in [0, 1]: 0 on one, 1 from `APART` of the depth on."""
    index = np.arange(depth)
    nearest = np.min([np.abs(index - other) for other in picked], axis=0) if picked else np.full(depth, depth)
    return np.asarray(np.clip(nearest / max(1.0, APART * depth), 0, 1))
