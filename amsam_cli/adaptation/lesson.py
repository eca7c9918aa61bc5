"""What there is to learn from: the shots as frames, whole and zoomed, and what the models make of them.

Frames are made once. Where the encoder stays as it is, they are encoded once too, and every step and every refit of the
forecast works on stored features; where it is tuned, features are made anew whenever its weights have changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from amsam_cli.adaptation.augmentation import Strength, augment
from amsam_cli.adapter import AdapterConfig, Backbone
from amsam_cli.errors import InputError
from amsam_cli.methods.probe import Probe
from amsam_cli.models import dinov2
from amsam_cli.models.base import Embedding, Memory, MemoryModel, OnStep, PromptableModel, at_side
from amsam_cli.models.dinov2 import Dinov2
from amsam_cli.preprocess import Frames, Recipe, fit, zoom_window
from amsam_cli.volume import Shot, Volume

CONTEXT = 12
"""Slices of each shot's scan that set the scale of its prior."""
FROZEN_VIEWS, TUNED_VIEWS, PUBLISHED_VIEWS = 12, 6, 1
"""Views of each shot, itself first: as many as training needs, or only as many as judging the result does."""
BYTE = (0.0, 255.0)
"""What becomes 0 and 1 in the published runs, whose pictures have eight bits."""
MILD = Strength(turn=0.26, stretch=0.2, move=0.1, bend=0.02, closer=0.0)
"""Views that are judged, and that probes learn from, stray no further than patients do."""
ENCODED_TOGETHER = 4 * 256**2
"""Pixels in a batch: four frames of the built-in model, one of SAM's."""


@dataclass(frozen=True, slots=True, eq=False)
class Still:
    """One shot at one scale, as frames that no model has seen.

    Attributes:
        shot: where it comes from.
        pixels: (A, 3, S, S) views, the first as annotated.
        masks: (A, L, S, S) soft masks.
        memory_pixels: (A, 3, S', S') the same views in the memory model's frame; the same object where it is the same.
        memory_masks: (A, L, S', S').
        context: (n, 3, S, S) float16, slices of its scan.
    """

    shot: Shot
    pixels: Tensor
    masks: Tensor
    memory_pixels: Tensor
    memory_masks: Tensor
    context: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One shot at one scale as the models see it: A views, the first as annotated.

    Attributes:
        shot: where it comes from.
        slices: (A, ...) features of the slice model.
        remembered: (A, ...) features of the memory model; the same object where it is the same model.
        masks: (A, L, S, S) soft masks in the slice model's frame.
        memory_masks: (A, L, S', S') in the memory model's frame.
        read: (A, C', h', w') features for priors by cosine: those of `slices`, or another model's.
        context: (n, C', h', w') the same of slices of its scan; None where a probe finds priors.
        memories: of all views, rows in the order (view, label), under untuned weights; None where no step asks.
    """

    shot: Shot
    slices: Embedding
    remembered: Embedding
    masks: Tensor
    memory_masks: Tensor
    read: Tensor
    context: Tensor | None
    memories: Memory | None = None

    @property
    def views(self) -> int:
        """A."""
        return len(self.masks)


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """All there is to learn from.

    Attributes:
        stills: the shots, whole.
        zoomed: the shots as the closer look sees them, at the recipe's zoom or finer; empty where it has neither.
        model: what is tuned.
        backbone: its identity.
        memory_model: what carries masks through volumes; often the same.
        labels: value -> name, in the order of every L axis.
        recipe: how scans become frames.
        config: how to adapt; nothing in it is left to be decided.
        reader: reads frames for priors by cosine; None = the model.
        kept: examples of `stills` and `zoomed` where the encoder is frozen, else None.
        probes: those fitted so far to kept examples; folds share them, and tuning changes none.
    """

    stills: Sequence[Still]
    zoomed: Sequence[Still]
    model: PromptableModel
    backbone: Backbone
    memory_model: MemoryModel
    labels: dict[int, str]
    recipe: Recipe
    config: AdapterConfig
    reader: Dinov2 | None = None
    kept: tuple[Sequence[Example], Sequence[Example]] | None = None
    probes: dict[tuple[Example, ...], Probe] = field(default_factory=dict)

    @property
    def patients(self) -> list[str]:
        """Whose each shot is."""
        return [still.shot.patient for still in self.stills]

    @property
    def shown(self) -> Tensor:
        """(K, L) bool, which shot shows which label."""
        return torch.stack([still.masks[0].amax(dim=(1, 2)) > 0.5 for still in self.stills]).cpu()

    @property
    def is_published(self) -> bool:
        """Whether to learn as the paper's public runs do."""
        return self.config.preset == "paper"

    @property
    def remembers_itself(self) -> bool:
        """Whether one model does both."""
        return self.memory_model is self.model

    def only(self, kept: Sequence[int]) -> Lesson:
        """Return the lesson without the other shots."""

        def of(some: Sequence[Example]) -> list[Example]:
            return [some[index] for index in kept] if some else []

        return replace(
            self,
            stills=[self.stills[index] for index in kept],
            zoomed=[self.zoomed[index] for index in kept] if self.zoomed else (),
            kept=(of(self.kept[0]), of(self.kept[1])) if self.kept else None,
        )

    def scales(self) -> Iterator[Sequence[Example]]:
        """Yield what the models make of the shots now, whole and closer, the slice model being at the side of each.

        It is back at its own once all are taken.
        """
        sides = self.recipe.image_size, self.recipe.closer.image_size
        kept = self.kept or ((), ())
        for stills, side, examples in zip((self.stills, self.zoomed), sides, kept, strict=True):
            if stills:
                with at_side(self.model, side, plain=self.is_published):
                    yield examples or [self._encode(still) for still in stills]

    def encoded_once(self, report: OnStep) -> Lesson:
        """Return the lesson with its examples kept, for a frozen encoder."""
        done: list[Example] = []
        total = len(self.stills) + len(self.zoomed)
        asks_memories = self.remembers_itself and bool(self.config.steps) and not self.is_published
        for still in (*self.stills, *self.zoomed):
            report("encode", len(done), total)
            example = self._encode(still)
            done.append(replace(example, memories=self.remember(example)) if asks_memories else example)
        report("encode", total, total)
        return replace(self, kept=(done[: len(self.stills)], done[len(self.stills) :]))

    @torch.no_grad()
    def remember(self, example: Example, *, views: int | None = None) -> Memory:
        """Return the memories of an example's first views, of all if left out, rows in the order (view, label)."""
        masks = example.memory_masks[:views]
        labels = masks.shape[1]
        return self.memory_model.remember(
            example.remembered.rows(slice(0, views)).repeat(labels), masks.flatten(0, 1)[:, None]
        )

    def _encode(self, still: Still) -> Example:
        slices = encode_all(self.model, still.pixels)
        remembered = slices if self.remembers_itself else encode_all(self.memory_model, still.memory_pixels)
        reader = self.reader or self.model
        read = encode_all(reader, still.pixels).features if self.reader else slices.features
        context = encode_all(reader, still.context).features if self.config.prior == "cosine" else None
        return Example(still.shot, slices, remembered, still.masks, still.memory_masks, read, context)


def encode_all(model: PromptableModel | Dinov2, frames: Tensor) -> Embedding:
    """Return the features of frames (n, 3, S, S), a few at a time."""
    size = max(1, ENCODED_TOGETHER // model.image_size**2)
    return Embedding.cat([model.encode(part.to(model.device).float()) for part in torch.split(frames, size)])


def prepare(
    shots: Sequence[Shot], model: PromptableModel, memory_model: MemoryModel, config: AdapterConfig, report: OnStep
) -> Lesson:
    """Return the shots as frames; encoded too, where the encoder is frozen.

    Raises:
        InputError: no shot has a label.
        WeightsError: the weights of what reads priors are not there.
    """
    backbone = Backbone.of(model)
    with at_side(model, config.side or model.image_size, plain=config.preset == "paper"):
        lesson = _stills(shots, (model, backbone), memory_model, config)
        if config.features == "dinov2":
            lesson = replace(lesson, reader=dinov2.load_reader(str(model.device)))
        return lesson.encoded_once(report) if config.tune in ("lora", "decoder") else lesson


def _stills(
    shots: Sequence[Shot], named: tuple[PromptableModel, Backbone], memory_model: MemoryModel, config: AdapterConfig
) -> Lesson:
    """Return the shots as frames of the side the model works at."""
    model, backbone = named
    labels = _labels_of(shots)
    first = shots[0].volume
    plane = None if first.is_picture else first.geometry.plane
    # Weights that are all tuned, on smaller frames than the model's own, look a second time at its own.
    finer = backbone.image_size if config.tune == "full" and backbone.image_size > model.image_size else None
    recipe = fit(shots, image_size=model.image_size, plane=plane, finer=finer)
    views = FROZEN_VIEWS if config.tune in ("lora", "decoder") else TUNED_VIEWS
    if config.preset == "paper":
        recipe, views = _published(recipe, shots), PUBLISHED_VIEWS
    other = None if memory_model is model else memory_model.image_size
    stage = _Stage(recipe, other, list(labels), views, model.device)
    closer = replace(stage, recipe=recipe.closer)
    stills, zoomed = [], []
    for index, shot in enumerate(shots):
        stills.append(stage.still(shot, config.seed + index))
        if recipe.zoom or recipe.finer:
            zoomed.append(closer.still(shot, config.seed + index, zoom=recipe.zoom))
    return Lesson(stills, zoomed, model, backbone, memory_model, labels, recipe, config)


def _published(recipe: Recipe, shots: Sequence[Shot]) -> Recipe:
    """Return the recipe without a closer look, and for pictures of eight bits without stretching their contrast."""
    is_byte = all(
        shot.volume.is_picture and BYTE[0] <= shot.volume.range[0] <= shot.volume.range[1] <= BYTE[1] for shot in shots
    )
    return replace(recipe, zoom=None, window=BYTE if is_byte else recipe.window)


def _labels_of(shots: Sequence[Shot]) -> dict[int, str]:
    """Return the labels the shots show, ascending, with their names."""
    names: dict[int, str] = {}
    for shot in shots:
        for value in shot.labels.values():
            names.setdefault(value, shot.labels.names.get(value, f"label_{value}"))
    if not names:
        raise InputError("No shot has a labelled pixel.", "Check the label files with: amsam adapt --dry-run")
    return dict(sorted(names.items()))


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """Makes stills of shots."""

    recipe: Recipe
    memory_size: int | None
    labels: list[int]
    views: int
    device: torch.device

    def still(self, shot: Shot, seed: int, *, zoom: float | None = None) -> Still:
        """Return a shot's views; of the part round its labels, `zoom` mm wide, where that is given."""
        scan = shot.scan()
        volume, labels, around = shot.volume, shot.labels, scan
        window = zoom_window(volume.geometry, labels.data[0] > 0, zoom) if zoom else None
        if window:
            volume, labels, around = volume.crop(window), labels.crop(window), around.crop(window)
        frames = Frames(volume, self.recipe, scan=scan)
        pixels, masks = self._views(frames.pixels(0, 1), frames.masks(labels, self.labels), seed)
        memory_pixels, memory_masks = pixels, masks
        if self.memory_size and self.memory_size != self.recipe.image_size:
            other = Frames(volume, replace(self.recipe, image_size=self.memory_size), scan=scan)
            memory_pixels, memory_masks = self._views(other.pixels(0, 1), other.masks(labels, self.labels), seed)
        return Still(shot, pixels, masks, memory_pixels, memory_masks, self._context(around, scan))

    def _views(self, pixels: Tensor, masks: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return the views of one frame, the first as it is; the same views at every side for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        side, more = pixels.shape[-1], self.views - 1
        if not more:
            return pixels.to(self.device), masks.to(self.device)
        moved, labels = augment(
            pixels.repeat(more, 1, 1, 1), masks.repeat(more, 1, 1, 1), generator, side=side, strength=MILD
        )
        return torch.cat([pixels, moved]).to(self.device), torch.cat([masks, labels]).to(self.device)

    def _context(self, around: Volume, scan: Volume) -> Tensor:
        frames = Frames(around, self.recipe, scan=scan)
        picked = np.unique(np.linspace(0, scan.depth - 1, min(CONTEXT, scan.depth)).round().astype(int))
        return torch.cat([frames.pixels(int(d), int(d) + 1).half() for d in picked])
