"""amsam as a method of the benchmark, through the same calls as the commands make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from amsam_cli import models
from amsam_cli.adaptation import adapt
from amsam_cli.adapter import Adapter, AdapterConfig
from amsam_cli.bench.base import Query
from amsam_cli.models.base import OnStep, PromptableModel
from amsam_cli.report import Json, sha256_of
from amsam_cli.segmentation import segment
from amsam_cli.version import __version__
from amsam_cli.volume import LabelMap, Shot
from amsam_cli.weights import ensure, parse_model


@dataclass(frozen=True, eq=False)
class Amsam:
    """Adapt, then segment.

    Attributes:
        name: in tables.
        model: as `amsam adapt --model` takes it.
        steps: None decides by the number of shots, 0 trains nothing.
        device: where the model runs.
    """

    name: str = "amsam"
    model: str = "builtin"
    steps: int | None = None
    device: str = "cpu"

    @cached_property
    def version(self) -> str:
        """The package's version and the start of the weights' hash: other weights, other results."""
        name, given = parse_model(self.model)
        return f"{__version__}-{sha256_of(given or ensure(name))[:8]}"

    @property
    def settings(self) -> Mapping[str, Json]:
        """The adapter's configuration; its seed is that of the draw."""
        config = asdict(self._config(seed=0))
        return {"model": parse_model(self.model)[0], **{key: config[key] for key in config if key != "seed"}}

    @cached_property
    def _loaded(self) -> PromptableModel:
        return models.load(self.model, self.device)

    def _config(self, seed: int) -> AdapterConfig:
        return AdapterConfig(steps=self.steps, seed=seed, forecast=False)

    def fit(self, shots: Sequence[Shot], *, seed: int, on_step: OnStep | None = None) -> AdaptedModel:
        """Return the adapter of these shots with its model."""
        adapter = adapt(shots, self._loaded, config=self._config(seed), on_step=on_step)
        return AdaptedModel(adapter, self._loaded)


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedModel:
    """An adapter and the model it belongs to."""

    adapter: Adapter
    model: PromptableModel

    def segment(self, query: Query) -> LabelMap:
        """Return the labels of the scan, on its own grid."""
        return segment(query.volume, self.adapter, self.model).labels
