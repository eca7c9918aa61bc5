"""amsam as a method of the benchmark, through the same calls as the commands make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from amsam_cli.adaptation import adapt
from amsam_cli.adapter import Adapter, AdapterConfig
from amsam_cli.bench.backbone import OnOurModel
from amsam_cli.bench.base import Query
from amsam_cli.bench.cases import Cases
from amsam_cli.bench.choosing import Choice, chosen_slices, suggested_slices
from amsam_cli.bench.code import code_of_results
from amsam_cli.methods.prompts import Detect, Detection
from amsam_cli.models.base import OnStep, PromptableModel
from amsam_cli.report import Json
from amsam_cli.segmentation import Mode, Plan, Segmentation, segment
from amsam_cli.version import __version__
from amsam_cli.volume import LabelMap, Shot, Volume


@dataclass(frozen=True, eq=False)
class Amsam(OnOurModel):
    """Adapt, then segment.

    Attributes:
        name: in tables.
        config: how to adapt; the seed is that of the draw.
        mode: how to segment, as `amsam segment --mode` takes it.
        axes: what differs from that mode's `Plan`, for ablations.
        is_shown_boxes: whether a person draws the true box on every slice, in the place of automatic prompts.
        choice: which slices of the draw's scans it learns from.
    """

    name: str = "amsam"
    config: AdapterConfig = field(default_factory=AdapterConfig)
    mode: Mode = "full"
    axes: Mapping[str, bool | int] = field(default_factory=dict)
    is_shown_boxes: bool = False
    choice: Choice = "drawn"

    @property
    def version(self) -> str:
        """The package's version, what its code does, and the start of the weights' hash."""
        return f"{__version__}+{code_of_results()}-{self.weights}"

    @property
    def settings(self) -> Mapping[str, Json]:
        """The adapter's configuration; its seed is that of the draw."""
        config = asdict(self._config(seed=0))
        kept = {key: value for key, value in config.items() if key != "seed"}
        own = {"model": self.model_name, "mode": self.mode, "sees_the_reference": self.is_shown_boxes}
        chosen = {} if self.choice == "drawn" else {"slices": self.choice}
        plan = {"plan": dict(self.axes)} if self.axes else {}
        return {**own, **chosen, **plan, **kept}

    def slices(self, there: Cases, drawn: Sequence[str]) -> Sequence[str]:
        """Return the slices it would ask for, of the scans that those drawn are of."""
        if self.choice == "medoids":
            return chosen_slices(there, drawn)
        return suggested_slices(there, drawn, self.loaded) if self.choice == "suggested" else drawn

    def _config(self, seed: int) -> AdapterConfig:
        return replace(self.config, seed=seed)

    def fit(self, shots: Sequence[Shot], *, seed: int, on_step: OnStep | None = None) -> AdaptedModel:
        """Return the adapter of these shots with its model."""
        adapter = adapt(shots, self.loaded, config=self._config(seed), on_step=on_step)
        plan = replace(Plan.of(self.mode), **self.axes)  # type: ignore[arg-type]
        return AdaptedModel(adapter, self.loaded, plan, is_shown_boxes=self.is_shown_boxes)


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedModel:
    """An adapter and the model it belongs to."""

    adapter: Adapter
    model: PromptableModel
    plan: Plan = field(default_factory=Plan)
    is_shown_boxes: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """Where it learned from, which may not be what was drawn."""
        return (f"learned from {', '.join(self.adapter.record.shots)}",)

    @property
    def forecast(self) -> Mapping[str, float]:
        """Leave-one-out Dice of each label."""
        return {self.adapter.labels[value]: dice for value, dice in (self.adapter.record.forecast or {}).items()}

    def segment(self, query: Query) -> LabelMap:
        """Return the labels of the scan, on its own grid."""
        return self._answer(query).labels

    def segment_and_expect(self, query: Query) -> tuple[LabelMap, Mapping[str, float]]:
        """Return the labels of the scan and the Dice to expect of each label that was found."""
        found, names = self._answer(query), self.adapter.labels
        return found.labels, {names[value]: round(found.expected_dice[value], 4) for value in found.labels.values()}

    def _answer(self, query: Query) -> Segmentation:
        plan = replace(self.plan, detect=true_boxes(query)) if self.is_shown_boxes else self.plan
        return segment(query.volume, self.adapter, self.model, plan=plan)


def true_boxes(query: Query) -> Detect:
    """Return a detector that has seen the answer: what a person with a mouse would draw on every slice."""

    def detect(part: Volume) -> dict[int, list[Detection]]:
        to_scan = np.linalg.inv(query.volume.geometry.affine)
        d, h, w = np.rint((to_scan @ part.geometry.affine)[:3, 3]).astype(int)
        _, height, width = part.geometry.shape
        seen = query.truth.data[d, h : h + height, w : w + width]
        return {int(value): [(_bounds(seen == value), 1.0)] for value in np.unique(seen) if value}

    return detect


def _bounds(region: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Return the left, top, right and bottom edge of a region (H, W) that is not empty."""
    rows, columns = np.nonzero(region)
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)
