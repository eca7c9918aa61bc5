"""What was learned from the shots: an adapter on disk, in memory, and attached to a model.

An adapter is a folder in which peft finds its own files, next to a readable description, support memories and the
timings. It holds no pickle and no pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from amsam_cli.adapter.changes import DECODER_TARGETS, Changes, attached, lora_config
from amsam_cli.adapter.config import AdapterConfig, Tune
from amsam_cli.errors import AdapterError
from amsam_cli.methods.blending import Blend
from amsam_cli.methods.confidence import Gauge
from amsam_cli.methods.probe import Probe
from amsam_cli.methods.prompts import PromptRule
from amsam_cli.methods.pseudo_prompt import Prototypes
from amsam_cli.methods.shape import Shape
from amsam_cli.models.base import Embedding, Memory, PromptableModel, at_side
from amsam_cli.preprocess import Recipe
from amsam_cli.version import __version__

__all__ = [
    "DESCRIPTION",
    "Adapter",
    "AdapterConfig",
    "Backbone",
    "Changes",
    "Mirror",
    "Record",
    "Sight",
    "SupportBank",
    "Trust",
    "Tune",
    "check_same",
]

FORMAT = 3
DESCRIPTION = "amsam.json"
MEMORIES = "memories.safetensors"
TIMINGS = "run.json"
CHANGES = "changes.safetensors"


class Identified(Protocol):
    """A network with a name, at a frame side."""

    name: str
    image_size: int

    @property
    def network(self) -> nn.Module:
        """The whole network."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """Which network the adapter belongs to: its name, the hash of its weights, its frame side."""

    name: str
    sha256: str
    image_size: int

    @classmethod
    def of(cls, model: Identified) -> Backbone:
        """Return the identity of `model`; the hash is over its weights, whatever file they came from."""
        digest = hashlib.sha256()
        for name, tensor in sorted(model.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return cls(model.name, digest.hexdigest(), model.image_size)


@dataclass(frozen=True, slots=True)
class Record:
    """How the adapter came about.

    Attributes:
        shots: origins of the slices it learned from.
        forecast: label -> leave-one-out Dice; None when it was not asked for or impossible.
        trainable: module -> trained parameters.
        seconds: stage -> wall time; kept in `run.json`, apart from what equal runs share.
        warnings: what the user should know.
    """

    shots: tuple[str, ...] = ()
    forecast: Mapping[int, float] | None = None
    trainable: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trust:
    """How well each way of looking did on a label, as mean Dice on shots it was asked for without themselves.

    Attributes:
        prior: the thresholded prior itself.
        slice: decoded alone, from automatic prompts.
        support: decoded from the other shots in memory.
    """

    prior: float
    slice: float
    support: float


@dataclass(frozen=True, slots=True, eq=False)
class SupportBank:
    """The shots as the memory model remembers them, and as the slice model's features describe them.

    Attributes:
        maps: (K, L, Cm, h, w) memory of each shot for each label.
        pointers: (K, L, C).
        masks: (K, L, 1, h, w).
        prototypes: features of the labels in each shot, and which shot shows which label.
    """

    maps: Tensor
    pointers: Tensor
    masks: Tensor
    prototypes: Prototypes

    def memories(self, label: int, device: torch.device) -> list[Memory]:
        """Return the memories of the shots that show label number `label` (its index, not its value)."""
        shown = self.prototypes.present[:, label].nonzero()[:, 0].tolist()
        return [
            Memory(
                self.maps[k, label, None].to(device),
                self.pointers[k, label, None].to(device),
                self.masks[k, label, None].to(device),
            )
            for k in shown
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Mirror:
    """The shots as the memory model sees them, to be segmented from a result: features, no pixels.

    Attributes:
        features: of the K shots, float16.
        masks: (K, L, s, s) bool, at the side of logits.
        places: (K,) where each lay in its scan, from 0 at the first slice to 1 at the last.
    """

    features: Embedding
    masks: Tensor
    places: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """What the shots taught about frames of one scale: whole slices, or a closer look.

    Attributes:
        rules: how each label's prior becomes prompts.
        trust: how well each way of looking at each label did on the shots.
        blends: how much each counts.
        bank: the support memories.
        probe: the classifier behind the prior; None where the prior is the cosine to the bank's prototypes.
        gauges: what the masks of each label were worth on the shots; empty in adapters that do not tell.
        mirror: the shots, for asking back; None in adapters without.
        shapes: what the masks of each label look like; empty where nothing is known.
        together: what all labels as one look like.
    """

    rules: tuple[PromptRule, ...]
    trust: tuple[Trust, ...]
    blends: tuple[Blend, ...]
    bank: SupportBank
    probe: Probe | None = None
    gauges: tuple[Gauge, ...] = ()
    mirror: Mirror | None = None
    shapes: tuple[Shape, ...] = ()
    together: Shape = field(default_factory=Shape)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """Everything `segment` needs beyond the backbone.

    Attributes:
        backbone: the model that was tuned and decodes slices.
        memory_backbone: the model that carries masks from slice to slice; often the same.
        labels: value -> name, in the order of every L axis.
        recipe: how scans become frames.
        config: how it was adapted.
        changes: what was learned of the backbone's weights.
        dense: (L, C) learned prompt of each label.
        whole: what the shots taught about whole slices.
        zoomed: what they taught about the closer look, frames of `recipe.zoom` or `recipe.finer`; None where there is
            none.
        record: where it comes from.
        reader: what its priors by cosine were read with; None where that is the backbone.
    """

    backbone: Backbone
    memory_backbone: Backbone
    labels: Mapping[int, str]
    recipe: Recipe
    config: AdapterConfig
    changes: Changes
    dense: Tensor
    whole: Sight
    zoomed: Sight | None = None
    record: Record = Record()
    reader: Backbone | None = None

    @property
    def sights(self) -> dict[str, Sight]:
        """What the shots taught, by the name of the scale, which is that of the attribute."""
        return {"whole": self.whole} | ({"zoomed": self.zoomed} if self.zoomed else {})

    @property
    def sha256(self) -> str:
        """The hash of all that decides a mask: not of the timings."""
        digest = hashlib.sha256(json.dumps(_describe(self), sort_keys=True).encode())
        for name, tensor in sorted({**_peft_tensors(self), **_change_tensors(self), **_memory_tensors(self)}.items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the adapter into `folder`, which must exist."""
        config = lora_config(self.config.rank, self.changes.targets or DECODER_TARGETS)
        config.inference_mode = True
        config.save_pretrained(str(folder))
        # Written as bytes, since `save_file` makes files that only their owner can read.
        (folder / "adapter_model.safetensors").write_bytes(save(_peft_tensors(self)))
        (folder / CHANGES).write_bytes(save(_change_tensors(self)))
        (folder / MEMORIES).write_bytes(save(_memory_tensors(self)))
        (folder / DESCRIPTION).write_text(json.dumps(_describe(self), indent=2) + "\n")
        (folder / TIMINGS).write_text(json.dumps({"seconds": dict(self.record.seconds)}, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        """Return the adapter of `folder`.

        Raises:
            AdapterError: the folder is missing, is no adapter, or one this version cannot read.
        """
        if not (folder / DESCRIPTION).is_file():
            message = f"No adapter in '{folder}': it has no {DESCRIPTION}."
            raise AdapterError(message, "Make one with: amsam adapt --shots 4 LABELS -o " + str(folder))
        try:
            about = json.loads((folder / DESCRIPTION).read_text())
            changes = _restore_changes(load_file(folder / "adapter_model.safetensors"), load_file(folder / CHANGES))
            memories = load_file(folder / MEMORIES)
            return _restore(about, changes, memories, json.loads((folder / TIMINGS).read_text())["seconds"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as err:
            message = f"The adapter in '{folder}' cannot be read: {err}."
            raise AdapterError(message, "It may be incomplete or of another version; run amsam adapt again") from err

    @contextmanager
    def attach(self, model: PromptableModel) -> Iterator[None]:
        """Let `model` be as tuned for the time of the `with` block; it leaves bit for bit as it came.

        Raises:
            AdapterError: the adapter was made for another model.
        """
        check_same(self.backbone, Backbone.of(model))
        is_plain = self.config.preset == "paper"
        with at_side(model, self.recipe.image_size, plain=is_plain), attached(model, self.config, self.changes):
            yield


def check_same(expected: Backbone, found: Backbone) -> None:
    """Refuse a model that is not the one an adapter was made for: LoRA on other weights is noise.

    Raises:
        AdapterError: they differ.
    """
    if expected == found:
        return
    wanted = f"{expected.name} at {expected.image_size} px, weights {expected.sha256[:12]}"
    given = f"{found.name} at {found.image_size} px, weights {found.sha256[:12]}"
    message = f"The adapter was made for {wanted}; the model is {given}."
    raise AdapterError(message, "Use the model and weights the adapter names, or run amsam adapt again")


def _peft_tensors(adapter: Adapter) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in adapter.changes.lora.items()}


def _change_tensors(adapter: Adapter) -> dict[str, Tensor]:
    changes = adapter.changes
    kinds = {"weights": changes.weights, "calibration": changes.calibration, "classes": changes.classes}
    return {f"{kind}.{name}": tensor.contiguous() for kind, group in kinds.items() for name, tensor in group.items()}


def _restore_changes(lora: dict[str, Tensor], others: dict[str, Tensor]) -> Changes:
    return Changes(lora, *(_of(f"{kind}.", others) for kind in ("weights", "calibration", "classes")))


def _memory_tensors(adapter: Adapter) -> dict[str, Tensor]:
    tensors = {"dense": adapter.dense}
    for scale, sight in adapter.sights.items():
        bank = sight.bank
        tensors |= {
            f"{scale}.maps": bank.maps,
            f"{scale}.pointers": bank.pointers,
            f"{scale}.masks": bank.masks,
            f"{scale}.foreground": bank.prototypes.foreground,
            f"{scale}.background": bank.prototypes.background,
            f"{scale}.present": bank.prototypes.present,
        }
        if sight.probe:
            tensors |= {f"{scale}.probe.weight": sight.probe.weight, f"{scale}.probe.bias": sight.probe.bias}
        if sight.mirror:
            levels = sight.mirror.features.levels
            tensors |= {f"{scale}.mirror.{number}": level for number, level in enumerate(levels)}
            tensors |= {f"{scale}.mirror.masks": sight.mirror.masks, f"{scale}.mirror.places": sight.mirror.places}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _restore_sight(scale: str, about: dict[str, Any], memories: dict[str, Tensor]) -> Sight:
    """Return what was learned at a scale, from the description and tensors of an adapter."""
    tensors = {
        name: memories[f"{scale}.{name}"]
        for name in ("maps", "pointers", "masks", "foreground", "background", "present")
    }
    known = Prototypes(tensors["foreground"], tensors["background"], tensors["present"])
    weight, bias = memories.get(f"{scale}.probe.weight"), memories.get(f"{scale}.probe.bias")
    return Sight(
        rules=tuple(PromptRule(**rule) for rule in about[scale]["rules"]),
        trust=tuple(Trust(**trust) for trust in about[scale]["trust"]),
        blends=tuple(Blend(**blend) for blend in about[scale]["blends"]),
        bank=SupportBank(tensors["maps"], tensors["pointers"], tensors["masks"], known),
        probe=None if weight is None or bias is None else Probe(weight, bias),
        gauges=tuple(Gauge(**gauge) for gauge in about[scale]["gauges"]),
        mirror=_restore_mirror(scale, memories),
        shapes=tuple(Shape(**shape) for shape in about[scale]["shapes"]),
        together=Shape(**about[scale]["together"]),
    )


def _restore_mirror(scale: str, memories: dict[str, Tensor]) -> Mirror | None:
    own = _of(f"{scale}.mirror.", memories)
    if not own:
        return None
    features, *detail = (own[number] for number in sorted(name for name in own if name.isdigit()))
    return Mirror(Embedding(features, tuple(detail)), own["masks"], own["places"])


def _of(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, named by the rest."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _describe(adapter: Adapter) -> dict[str, Any]:
    """Return the adapter's readable half, as JSON types."""
    record = adapter.record
    return {
        "format": FORMAT,
        "amsam": __version__,
        "backbone": asdict(adapter.backbone),
        "memory_backbone": asdict(adapter.memory_backbone),
        "reader": asdict(adapter.reader) if adapter.reader else None,
        "labels": {str(value): name for value, name in adapter.labels.items()},
        "recipe": asdict(adapter.recipe),
        "config": asdict(adapter.config),
        **{
            scale: {
                "rules": [asdict(rule) for rule in sight.rules],
                "trust": [asdict(each) for each in sight.trust],
                "blends": [asdict(each) for each in sight.blends],
                "gauges": [asdict(each) for each in sight.gauges],
                "shapes": [asdict(shape) for shape in sight.shapes],
                "together": asdict(sight.together),
            }
            for scale, sight in adapter.sights.items()
        },
        "shots": list(record.shots),
        "forecast": None if record.forecast is None else {str(v): round(d, 4) for v, d in record.forecast.items()},
        "trainable": dict(record.trainable),
        "warnings": list(record.warnings),
    }


def _restore(
    about: dict[str, Any], changes: Changes, memories: dict[str, Tensor], seconds: dict[str, float]
) -> Adapter:
    """Return the adapter a folder's contents describe; errors are those of wrong contents."""
    if about["format"] != FORMAT:
        message = f"it is of format {about['format']}, and this version reads {FORMAT}"
        raise ValueError(message)
    recipe = about["recipe"]
    forecast = about["forecast"]
    return Adapter(
        backbone=Backbone(**about["backbone"]),
        memory_backbone=Backbone(**about["memory_backbone"]),
        labels={int(value): name for value, name in about["labels"].items()},
        recipe=Recipe(
            recipe["plane"],
            tuple(recipe["window"]) if recipe["window"] else None,
            tuple(recipe["percentiles"]),
            recipe["image_size"],
            recipe["channels"],
            recipe["zoom"],
            recipe.get("finer"),
        ),
        config=AdapterConfig(**about["config"]),
        changes=changes,
        dense=memories["dense"],
        whole=_restore_sight("whole", about, memories),
        zoomed=_restore_sight("zoomed", about, memories) if "zoomed" in about else None,
        record=Record(
            shots=tuple(about["shots"]),
            forecast=None if forecast is None else {int(value): dice for value, dice in forecast.items()},
            trainable=about["trainable"],
            seconds=seconds,
            warnings=tuple(about["warnings"]),
        ),
        reader=Backbone(**about["reader"]) if about["reader"] else None,
    )
