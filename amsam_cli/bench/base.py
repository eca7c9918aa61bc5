"""What the benchmark asks of a method.

A method sees the same annotated slices as every other one and predicts the same scans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from amsam_cli.report import Json
from amsam_cli.volume import LabelMap, Shot, Volume

if TYPE_CHECKING:
    from amsam_cli.models.base import OnStep


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A scan to segment.

    Attributes:
        volume: the scan, in the plane of the shots.
        truth: its reference. Only for a method that stands for a human who sees the answer, such as a box drawn
            round the object on one slice; every other method leaves it alone.
    """

    volume: Volume
    truth: LabelMap


class Fitted(Protocol):
    """A method that has learned from its shots."""

    def segment(self, query: Query) -> LabelMap:
        """Return the labels of the scan, on its own grid."""


@runtime_checkable
class Remarked(Protocol):
    """A fitted method with something to say about how it learned."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the result; see `amsam_cli.bench.record`."""


@runtime_checkable
class Foretelling(Protocol):
    """A fitted method that says beforehand how well it will do."""

    @property
    def forecast(self) -> Mapping[str, float]:
        """Name of label -> Dice it expects on scans of other patients; empty where it made none."""


@runtime_checkable
class Expecting(Protocol):
    """A fitted method that says of each mask how good it should be."""

    def segment_and_expect(self, query: Query) -> tuple[LabelMap, Mapping[str, float]]:
        """Return the labels of the scan, and name of label -> the Dice it expects of its mask, where there is one."""


class Method(Protocol):
    """A way to learn from annotated slices; written once, run on every set, shot count and seed."""

    @property
    def name(self) -> str:
        """What the user types and tables show."""

    @property
    def version(self) -> str:
        """Changes when results may; results of several versions stand side by side."""

    @property
    def settings(self) -> Mapping[str, Json]:
        """All that a reader needs to judge whether it got a fair chance; other settings, another run."""

    def fit(self, shots: Sequence[Shot], *, seed: int, on_step: OnStep | None = None) -> Fitted:
        """Return the method, having learned from these shots and nothing else."""
