"""What segmenting a scan costs as it gets deeper: memory must not grow with it but by the scan, its mask and features.

The built-in model learns two discs from one slice in context, then segments volumes of more and more slices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from amsam_cli import models
from amsam_cli.adaptation import adapt
from amsam_cli.adapter import Adapter, AdapterConfig
from amsam_cli.bench.propagation import Trial
from amsam_cli.bench.speed import Work
from amsam_cli.models.base import PromptableModel
from amsam_cli.segmentation import Plan, segment
from amsam_cli.volume import LabelMap, Shot

SIDE = 256
LABELS = 2
DEPTHS = (50, 200, 800)


def depth_works(*, depths: Sequence[int] = DEPTHS, side: int = SIDE, max_memory_gib: float | None = None) -> list[Work]:
    """Return segmenting volumes of several depths; seconds are per slice, memory is that of the whole process.

    Args:
        depths: numbers of slices.
        side: of the slices, in voxels.
        max_memory_gib: as in `Plan`.
    """
    return [
        Work(
            f"amsam segment, {depth} slices of {side} x {side}",
            "depth",
            _segmenting(depth, side, max_memory_gib),
            depth,
        )
        for depth in depths
    ]


def _segmenting(depth: int, side: int, max_memory_gib: float | None) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        model = models.load("builtin")
        adapter, trial = discs_adapter(side, model), Trial(depth, LABELS, side)
        volume, plan = trial.volume, Plan(max_memory_gib=max_memory_gib)
        return lambda: segment(volume, adapter, model, plan=plan)

    return prepare


def discs_adapter(side: int, model: PromptableModel) -> Adapter:
    """Return what one slice of two discs teaches a model in context."""
    return adapt([discs_shot(side)], model, config=AdapterConfig(steps=0, tune="lora", forecast=False))


def discs_shot(side: int) -> Shot:
    """Return one annotated slice of two discs."""
    trial = Trial(1, LABELS, side)
    masks = np.stack([trial.mask(label).numpy() for label in range(LABELS)])
    painted = (masks * np.arange(1, LABELS + 1)[:, None, None]).max(axis=0).astype(np.uint16)
    geometry = trial.volume.geometry
    labels = LabelMap(painted[None], geometry, {value + 1: f"disc {value + 1}" for value in range(LABELS)})
    return Shot(trial.volume, labels, lambda: trial.volume, "discs:0", "nobody", 0.0)
