"""What the benchmark asks of a method, and which methods there are.

A method sees the same annotated slices as every other one and predicts the same scans. Loads no network: a method's
own module is imported when it is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from amsam_cli.errors import InputError
from amsam_cli.report import Json
from amsam_cli.volume import LabelMap, Shot, Volume

if TYPE_CHECKING:
    from amsam_cli.models.base import OnStep

AVAILABLE_METHODS: Mapping[str, str] = {
    "amsam": "amsam as a user gets it: adapted to the shots, then full segmentation",
    "amsam-in-context": "amsam without tuning (--steps 0): prompts and support memories only",
    "unet": "a residual MONAI U-Net trained from scratch on the shots, frames of 256 px",
    "unet-128": "the same U-Net on frames of 128 px",
}
"""Name -> one line about it, in the order in which tables show them."""


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


def load_method(name: str, device: str = "cpu") -> Method:
    """Return a method by name.

    Raises:
        InputError: there is none of that name, or no such device.
        WeightsError: the weights it needs are missing.
    """
    if name not in AVAILABLE_METHODS:
        raise InputError(
            f"There is no method '{name}' in the benchmark.", f"Choose from {', '.join(AVAILABLE_METHODS)}."
        )
    if name.startswith("unet"):
        from amsam_cli.bench.unet import ScratchUNet

        return ScratchUNet(name, image_size=128 if name == "unet-128" else 256, device=device)
    from amsam_cli.bench.ours import Amsam

    return Amsam(name, steps=0 if name == "amsam-in-context" else None, device=device)
