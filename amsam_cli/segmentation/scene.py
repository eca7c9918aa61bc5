"""One scale of a scan: its slices, whole or zoomed, with their features, and the shots as they look at that scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.adapter import Adapter, Backbone, Mirror, Sight, check_same
from amsam_cli.methods.prompts import Detect, from_detections
from amsam_cli.methods.pseudo_prompt import Priors, priors, similarities
from amsam_cli.models import dinov2
from amsam_cli.models.base import Memory, MemoryModel, OnStep, PromptableModel, Prompts
from amsam_cli.models.dinov2 import Dinov2
from amsam_cli.preprocess import Frames, Placement
from amsam_cli.segmentation.features import Features
from amsam_cli.segmentation.plan import Plan
from amsam_cli.volume import Volume, Window

ROWS = 16
"""Masks decoded at once."""
CLOSENESS, REACH = 0.5, 0.1
"""What being at the same relative depth counts beside looking alike, and the share of the depth on which it fades."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which part of a scan a scene shows: slices from `first` on, `depth` of them, in `window` (None = whole).

    `is_closer` where it is a closer look, at frames as the adapter's recipe has them for that.
    """

    first: int
    depth: int
    window: Window | None = None
    is_closer: bool = False

    @classmethod
    def whole(cls, volume: Volume) -> Place:
        """Return the place that is the whole scan."""
        return cls(0, volume.depth)

    def of(self, volume: Volume) -> Volume:
        """Return that part of `volume`."""
        part = volume.part(self.first, self.first + self.depth)
        return part.crop(self.window) if self.window else part


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What one pass sees. D slices, L labels, K shots.

    Attributes:
        place: where in the scan.
        placement: how its slices lie in frames.
        slices: features for decoding slices.
        remembered: features for recalling memories; the same object where one model does both.
        sight: the shots at this scale.
        dense: (L, C) learned prompts.
        allowed: (D, L) bool, where a label may be at all.
        detected: prompts of each label on every slice, (D, ...), from a detector; empty where the prior gives them.
        channels: (L,) the mask token that answers for each label; None where all ask SAM's own.
        read: features for priors by cosine, where another model reads them; None = those of `slices`.
        nearness: (D, K) in [0, 1], how like each shot a slice is, where not all shots are remembered for each.
        nearest: how many are.
    """

    place: Place
    placement: Placement
    slices: Features
    remembered: Features
    sight: Sight
    dense: Tensor
    allowed: Tensor
    detected: tuple[Prompts, ...] = ()
    channels: Tensor | None = None
    read: Features | None = None
    nearness: Tensor | None = None
    nearest: int = 0

    @classmethod
    def of(
        cls,
        volume: Volume,
        place: Place,
        adapter: Adapter,
        models: tuple[PromptableModel, MemoryModel],
        plan: Plan,
        on_step: OnStep,
    ) -> Scene:
        """Return the scene at a place of a scan, encoded; the slice model is at the side of its frames."""
        model, memory_model = models
        part, recipe = place.of(volume), adapter.recipe.closer if place.is_closer else adapter.recipe
        same = model is memory_model
        limit = plan.max_memory_gib if same or plan.max_memory_gib is None else plan.max_memory_gib / 2
        slices = Features.encode(model, Frames(part, recipe, scan=volume), limit_gib=limit, on_step=on_step)
        remembered = slices
        if not same:
            other = replace(recipe, image_size=memory_model.image_size)
            frames = Frames(part, other, scan=volume)
            remembered = Features.encode(memory_model, frames, limit_gib=limit, on_step=on_step)
        sight = adapter.zoomed if place.is_closer and adapter.zoomed else adapter.whole
        placement = Placement.of(part.geometry, recipe.image_size)
        allowed = _allowed(place, adapter, plan)
        detected = _detected(part, placement, adapter, plan.detect) if plan.detect else ()
        read = None
        if adapter.reader:
            reader = _reader_of(adapter, model.device)
            read = Features.encode(reader, Frames(part, recipe, scan=volume), limit_gib=limit, on_step=on_step)
        dense, channels = adapter.dense.to(model.device), adapter.changes.channels
        scene = cls(place, placement, slices, remembered, sight, dense, allowed, detected, channels, read)
        nearest = plan.nearest_supports
        if not nearest or nearest >= len(sight.bank.maps) or sight.mirror is None:
            return scene
        return replace(scene, nearness=_nearness(scene, sight.mirror, volume.depth), nearest=nearest)

    @property
    def depth(self) -> int:
        """D."""
        return self.place.depth

    @property
    def labels(self) -> int:
        """L."""
        return len(self.sight.rules)

    @property
    def model(self) -> PromptableModel:
        """Decodes slices."""
        assert isinstance(self.slices.model, PromptableModel)
        return self.slices.model

    @property
    def memory_model(self) -> MemoryModel:
        """Recalls memories."""
        assert isinstance(self.remembered.model, MemoryModel)
        return self.remembered.model

    def asking(self, prompts: Prompts, labels: Tensor) -> Prompts:
        """Return prompts that ask for these labels of the slice model: by their learned prompts and mask tokens."""
        channel = None if self.channels is None else self.channels[labels]
        return replace(prompts, dense=self.dense[labels], channel=channel)

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (slice, label) of every row that is to be looked at, some rows at a time, slice by slice."""
        slices, labels = self.allowed.nonzero(as_tuple=True)
        return zip(batched(slices, ROWS), batched(labels, ROWS), strict=True)

    def supports(self, slices: Tensor, labels: Tensor) -> list[Memory]:
        """Return the memories of the shots for (slice, label) rows; a row lacks those that do not show its label.

        All shots in their order, or for each row those most like its slice, where that many were asked for.
        """
        bank, device = self.sight.bank, self.memory_model.device
        present = bank.prototypes.present
        shots = torch.arange(len(present)).expand(len(labels), -1)
        if self.nearness is not None:
            shown = present.T[labels].float()
            shots = (self.nearness[slices] + shown).topk(self.nearest, dim=1).indices  # shown ones come first
        memories = []
        for shot in shots.unbind(dim=1):
            there = present[shot, labels]
            content, pointer, mask = (part[shot, labels].to(device) for part in (bank.maps, bank.pointers, bank.masks))
            memories.append(Memory(content, pointer, mask, there=None if there.all() else there.to(device)))
        return memories

    def priors(self) -> Priors:
        """Return where each label may be, by what the slice model's own features say.

        Where the adapter has a probe, its probability is the clean prior and the square root of it the complete one, at
        the finest level (D, L, s, s); else both are cosines (D, L, h, w), scaled over the slices.
        """
        probe = self.sight.probe
        chunks = list(batched(torch.arange(self.depth), ROWS))
        if probe:
            clean = torch.cat([probe.probability(self.slices.rows(some)).cpu() for some in chunks])
            return Priors(clean.sqrt().half(), clean.half())
        read = self.read or self.slices
        known = self.sight.bank.prototypes.to(self.model.device)
        cosines = [similarities(read.rows(some).features, known) for some in chunks]
        foreground, background = (torch.cat(parts) for parts in zip(*cosines, strict=True))
        return priors(foreground, background)


def batched(tensor: Tensor, size: int) -> Iterator[Tensor]:
    """Yield at most `size` rows of a tensor at a time."""
    return (tensor[start : start + size] for start in range(0, len(tensor), size))


def _reader_of(adapter: Adapter, device: torch.device) -> Dinov2:
    """Return what the adapter's priors were read with.

    Raises:
        AdapterError: the weights at hand are others.
    """
    assert adapter.reader is not None
    reader = dinov2.load_reader(str(device))
    check_same(adapter.reader, Backbone.of(reader))
    return reader


def _nearness(scene: Scene, mirror: Mirror, depth: int) -> Tensor:
    """Return how like each shot every slice is, (D, K) in [0, 1]: by its mean feature, and by its place in the scan."""
    means = [
        scene.remembered.rows(some).features.mean(dim=(2, 3)).cpu() for some in batched(torch.arange(scene.depth), ROWS)
    ]
    shots = mirror.features.features.float().mean(dim=(2, 3))
    alike = F.cosine_similarity(torch.cat(means)[:, None], shots[None], dim=2)
    places = (scene.place.first + torch.arange(scene.depth)) / max(1, depth - 1)
    apart = (places[:, None] - mirror.places[None]).abs()
    return (alike + 1 + CLOSENESS * (-apart / REACH).exp()) / (2 + CLOSENESS)


def _detected(part: Volume, placement: Placement, adapter: Adapter, detect: Detect) -> tuple[Prompts, ...]:
    """Return what a detector finds of each label on every slice."""
    slices = [detect(part.slice(index)) for index in range(part.depth)]
    return tuple(from_detections([found.get(value, ()) for found in slices], placement) for value in adapter.labels)


def _allowed(place: Place, adapter: Adapter, plan: Plan) -> Tensor:
    """Return where each label may be at all, (D, L) bool."""
    allowed = torch.ones(place.depth, len(adapter.labels), dtype=torch.bool)
    for column, value in enumerate(adapter.labels):
        if plan.extents and value in plan.extents:
            first, last = plan.extents[value]
            index = torch.arange(place.first, place.first + place.depth)
            allowed[:, column] = (index >= first) & (index <= last)
    return allowed
