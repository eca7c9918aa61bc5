"""Shots -> Adapter: choose shots, encode them once, tune, remember them, forecast.

The image encoder is frozen, so the shots and their augmented views are encoded once and every step after that, of the
adapter and of the refits that forecast its Dice, works on stored features. Knows no files but what a shot brings.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from amsam_cli import models
from amsam_cli.adapter import (
    Adapter,
    AdapterConfig,
    Backbone,
    Record,
    Sight,
    SupportBank,
    Trust,
    lora_state,
    trainable_lora,
)
from amsam_cli.errors import InputError
from amsam_cli.io import Candidate
from amsam_cli.methods import prompts, pseudo_prompt
from amsam_cli.methods.losses import hard_dice, mask_loss, to_side
from amsam_cli.metrics import dice
from amsam_cli.models.base import Decoded, Embedding, Memory, MemoryModel, OnStep, PromptableModel, Prompts, silent
from amsam_cli.preprocess import Augmentation, Frames, Recipe, fit, zoom_window
from amsam_cli.segmentation import segment
from amsam_cli.volume import Shot, Volume, Window

log = logging.getLogger(__name__)

VIEWS = 12
"""Views of each shot: itself and eleven augmented ones."""
CONTEXT = 32
"""Slices of each shot's scan that set the scale of its prior."""
BATCH = 8
LEARNING_RATE = 3e-3
PROMPT_RATE = 5e-3
WEIGHT_DECAY = 0.1
APART = 0.25
"""Share of a scan's depth beyond which two slices count as different views."""
ABSENT = 0.15
"""Share of training rows whose label is not in the slice."""
FOLDS = 4
NEIGHBOURS = 8
"""Slices on either side of a held-out one that the forecast segments with it."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One shot, encoded: A views, the first as annotated.

    Attributes:
        shot: where it comes from.
        slices: (A, ...) features of the slice model.
        remembered: (A, ...) features of the memory model; the same object where it is the same model.
        masks: (A, L, S, S) soft masks in the slice model's frame.
        memory_masks: (A, L, S', S') in the memory model's frame.
        context: (n, C, h, w) features of slices of its scan.
    """

    shot: Shot
    slices: Embedding
    remembered: Embedding
    masks: Tensor
    memory_masks: Tensor
    context: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """All there is to learn from: the encoded shots, whole and zoomed, and the models."""

    examples: Sequence[Example]
    model: PromptableModel
    memory_model: MemoryModel
    labels: dict[int, str]
    recipe: Recipe
    config: AdapterConfig
    zoomed: Sequence[Example] = ()

    def only(self, kept: Sequence[int]) -> Lesson:
        """Return the lesson without the other shots."""
        zoomed = [self.zoomed[index] for index in kept] if self.zoomed else ()
        return replace(self, examples=[self.examples[index] for index in kept], zoomed=zoomed)

    def closer(self) -> Lesson:
        """Return the lesson whose examples are the zoomed ones."""
        return replace(self, examples=self.zoomed, zoomed=())


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


def adapt(
    shots: Sequence[Shot],
    model: PromptableModel | str = "builtin",
    *,
    memory_model: MemoryModel | str | None = None,
    config: AdapterConfig | None = None,
    on_step: OnStep | None = None,
) -> Adapter:
    """Return an adapter that segments what the shots show.

    Args:
        shots: annotated slices, all of one plane.
        model: what is tuned and decodes slices, or its name.
        memory_model: what carries masks through a volume; None = `model` if it has memory, else the built-in one.
        config: rank, steps, rate, seed, forecast.
        on_step: told about progress.

    Raises:
        InputError: no shots, or none with a label.
    """
    config = config or AdapterConfig()
    report = on_step or silent
    if not shots:
        raise InputError("There is no annotated slice to learn from.", "Check the folder with: amsam adapt --dry-run")
    began = time.monotonic()
    lesson = _prepare(shots, *_resolve(model, memory_model), config, report)
    encoded = time.monotonic()
    adapter = _learn(lesson, report, "adapt")
    tuned = time.monotonic()
    forecast = _forecast(lesson, report) if config.forecast else None
    seconds = {
        "encode": encoded - began,
        "adapt": tuned - encoded,
        "forecast": time.monotonic() - tuned,
    }
    record = replace(
        adapter.record,
        forecast=forecast,
        seconds={stage: round(value, 2) for stage, value in seconds.items()},
        warnings=(*adapter.record.warnings, *_remarks(lesson, forecast)),
    )
    return replace(adapter, record=record)


def _resolve(
    model: PromptableModel | str, memory_model: MemoryModel | str | None
) -> tuple[PromptableModel, MemoryModel]:
    """Return both models, loaded where they are named."""
    if isinstance(model, str):
        model = models.load(model)
    if memory_model is None:
        memory_model = model if isinstance(model, MemoryModel) else "builtin"
    if isinstance(memory_model, str):
        loaded = models.load(memory_model, str(model.device))
        if not isinstance(loaded, MemoryModel):
            message = f"Model '{memory_model}' has no memory, so it cannot carry masks through a volume."
            raise InputError(message, "Choose --memory-model builtin or a SAM 2 model")
        memory_model = loaded
    return model, memory_model


def _prepare(
    shots: Sequence[Shot], model: PromptableModel, memory_model: MemoryModel, config: AdapterConfig, report: OnStep
) -> Lesson:
    """Return the encoded shots."""
    labels = _labels_of(shots)
    first = shots[0].volume
    plane = None if first.is_picture else first.geometry.plane
    recipe = fit(shots, image_size=model.image_size, plane=plane)
    encoder = _Encoder(model, memory_model, recipe, list(labels))
    examples, zoomed = [], []
    for index, shot in enumerate(shots):
        report("encode", index, len(shots))
        examples.append(encoder.example(shot, config.seed + index))
        if recipe.zoom:
            zoomed.append(encoder.example(shot, config.seed + index, zoom=recipe.zoom))
    report("encode", len(shots), len(shots))
    return Lesson(examples, model, memory_model, labels, recipe, config, zoomed)


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
class _Encoder:
    """Encodes shots, whole or zoomed."""

    model: PromptableModel
    memory_model: MemoryModel
    recipe: Recipe
    labels: list[int]

    def example(self, shot: Shot, seed: int, *, zoom: float | None = None) -> Example:
        """Return a shot's views; of the part round its labels, `zoom` mm wide, where that is given."""
        scan = shot.scan()
        window = zoom_window(shot.volume.geometry, shot.labels.data[0] > 0, zoom) if zoom else None
        slices, masks, context = self._views(self.model, self.recipe, shot, scan, window, seed)
        if self.memory_model is self.model:
            return Example(shot, slices, slices, masks, masks, context)
        other = replace(self.recipe, image_size=self.memory_model.image_size)
        remembered, memory_masks, _ = self._views(self.memory_model, other, shot, scan, window, seed)
        return Example(shot, slices, remembered, masks, memory_masks, context)

    def _views(
        self,
        model: PromptableModel,
        recipe: Recipe,
        shot: Shot,
        scan: Volume,
        window: Window | None,
        seed: int,
    ) -> tuple[Embedding, Tensor, Tensor]:
        """Return features and masks of all views of a shot, and features of slices of its scan."""
        volume, labels, around = shot.volume, shot.labels, scan
        if window:
            volume, labels, around = volume.crop(window), labels.crop(window), around.crop(window)
        frames = Frames(volume, recipe, scan=scan)
        pixels, masks = frames.pixels(0, 1)[0], frames.masks(labels, self.labels)[0]
        augmentation = Augmentation(seed=seed, image_size=recipe.image_size)
        views = [(pixels, masks), *(augmentation.view(pixels, masks) for _ in range(VIEWS - 1))]
        embedding = Embedding.cat([model.encode(view[None].to(model.device)) for view, _ in views])
        neighbours = Frames(around, recipe, scan=scan)
        picked = np.unique(np.linspace(0, scan.depth - 1, min(CONTEXT, scan.depth)).round().astype(int))
        context = [model.encode(neighbours.pixels(int(d), int(d) + 1).to(model.device)).features for d in picked]
        return embedding, torch.stack([mask for _, mask in views]).to(model.device), torch.cat(context)


def _learn(lesson: Lesson, report: OnStep, stage: str) -> Adapter:
    """Return the adapter of these shots."""
    bank, views = _remember(lesson)
    rules, found = _leave_one_out_prompts(lesson, bank)
    lora, dense, trainable = _tune(lesson, views, found, report, stage)
    adapter = Adapter(
        backbone=Backbone.of(lesson.model),
        memory_backbone=Backbone.of(lesson.memory_model),
        labels=lesson.labels,
        recipe=lesson.recipe,
        config=lesson.config,
        lora=lora,
        dense=dense,
        whole=Sight(rules, (), bank),
        record=Record(shots=tuple(example.shot.origin for example in lesson.examples), trainable=trainable),
    )
    with torch.no_grad(), adapter.attach(lesson.model):
        adapter = replace(adapter, whole=_with_trust(adapter.whole, lesson, found, dense))
        if lesson.zoomed:
            closer = lesson.closer()
            bank, _ = _remember(closer)
            rules, found = _leave_one_out_prompts(closer, bank)
            adapter = replace(adapter, zoomed=_with_trust(Sight(rules, (), bank), closer, found, dense))
    return adapter


def _with_trust(sight: Sight, lesson: Lesson, found: Prompts, dense: Tensor) -> Sight:
    """Return a sight that knows how far each way of looking at each label can be trusted."""
    trust = [_trust(lesson, sight.bank, found, dense, label) for label in range(len(lesson.labels))]
    return replace(sight, trust=tuple(trust))


def _trust(lesson: Lesson, bank: SupportBank, found: Prompts, dense: Tensor, label: int) -> Trust:
    """Return how well both ways of looking do on the shots that show a label, none helped by itself."""
    shown = bank.prototypes.present[:, label].nonzero()[:, 0].tolist()
    memories = dict(zip(shown, bank.memories(label, lesson.memory_model.device), strict=True))
    own_memory = lesson.memory_model is lesson.model
    alone, recalled = [], []
    for shot in shown:
        example = lesson.examples[shot]
        learned = dense[label].to(lesson.model.device).expand(VIEWS, -1)
        row = (label * len(lesson.examples) + shot) * VIEWS
        asked = replace(found.rows(slice(row, row + VIEWS)), dense=learned)
        alone.append(_overlap(lesson.model.decode(example.slices, asked), example.masks[:, label]))
        others = [memories[other] for other in shown if other != shot] or [memories[shot]]
        repeated = [memory.repeat(VIEWS) for memory in others]
        plain = Prompts.empty(VIEWS, device=learned.device, dense=learned if own_memory else None)
        answer = lesson.memory_model.recall(example.remembered, repeated, plain)
        recalled.append(_overlap(answer, example.memory_masks[:, label]))
    return Trust(round(float(np.mean(alone)), 4), round(float(np.mean(recalled)), 4))


def _overlap(answer: Decoded, truth: Tensor) -> float:
    """Return the mean Dice of masks over views (A, S, S)."""
    side = answer.logits.shape[-1]
    small = to_side(truth[:, None], side)[:, 0]
    return float(hard_dice(answer.logits[:, 0] > 0, small > 0.5).mean())


def _remember(lesson: Lesson) -> tuple[SupportBank, Memory]:
    """Return the support bank, and the memories of all views, rows in the order (shot, view, label)."""
    with torch.no_grad():
        views = Memory.cat([_memories_of(example, lesson.memory_model) for example in lesson.examples])
        count, labels = len(lesson.examples), len(lesson.labels)
        first = views.rows(_rows(count, labels, view=0))
        plain = torch.cat([example.slices.features[:1] for example in lesson.examples])
        masks = torch.cat([example.masks[:1] for example in lesson.examples])
        known = pseudo_prompt.prototypes(plain.float(), masks)
    known = pseudo_prompt.Prototypes(known.foreground.cpu(), known.background.cpu(), known.present.cpu())
    maps, pointers, small = (
        part.view(count, labels, *part.shape[1:]).cpu() for part in (first.map, first.pointer, first.mask)
    )
    return SupportBank(maps, pointers, small, known), views


def _rows(count: int, labels: int, *, view: int) -> Tensor:
    """Return where one view's rows are among rows ordered (shot, view, label)."""
    return torch.arange(count * VIEWS * labels).view(count, VIEWS, labels)[:, view].flatten()


def _memories_of(example: Example, model: MemoryModel) -> Memory:
    """Return one shot's memories, one row for each (view, label)."""
    labels = example.memory_masks.shape[1]
    return model.remember(example.remembered.repeat(labels), example.memory_masks.flatten(0, 1)[:, None])


def _leave_one_out_prompts(lesson: Lesson, bank: SupportBank) -> tuple[tuple[prompts.PromptRule, ...], Prompts]:
    """Return each label's rule, and prompts of all views, rows in the order (label, shot, view).

    No shot's prior is made from itself, so that training sees prompts as good and as bad as a new scan's will be.
    """
    count = len(lesson.examples)
    by_shot = []
    for index, example in enumerate(lesson.examples):
        others = [other for other in range(count) if other != index] or [index]
        known = bank.prototypes.only(others)
        context = pseudo_prompt.similarities(example.context, known)
        own = pseudo_prompt.similarities(example.slices.features, known)
        by_shot.append(pseudo_prompt.priors(*own, over=context).discriminative)
    prior = torch.stack(by_shot)  # (K, A, L, h, w)
    masks = torch.stack([example.masks[0] for example in lesson.examples])
    rules = tuple(prompts.learn_rule(prior[:, 0, label], masks[:, label]) for label in range(len(lesson.labels)))
    found = [
        prompts.find_prompts(prior[:, :, label].flatten(0, 1), rule, lesson.model.image_size)
        for label, rule in enumerate(rules)
    ]
    return rules, Prompts.cat(found)


def _steps(lesson: Lesson) -> int:
    """Return how many steps to take: more for more shots, at least 120."""
    return lesson.config.steps if lesson.config.steps is not None else max(120, 30 * len(lesson.examples))


def _tune(
    lesson: Lesson, views: Memory, found: Prompts, report: OnStep, stage: str
) -> tuple[dict[str, Tensor], Tensor, dict[str, int]]:
    """Return LoRA weights, learned prompts (L, C) and what was trained."""
    model, config, steps = lesson.model, lesson.config, _steps(lesson)
    start = model.no_prompt().detach().clone()
    dense = nn.Parameter(start.repeat(len(lesson.labels), 1))
    if not steps:
        return {}, dense.detach().cpu(), {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        with trainable_lora(model, config.rank) as tuned:
            weights = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
            sampler = _Sampler(lesson, views, found)
            optimiser = torch.optim.AdamW(
                [
                    {"params": weights, "lr": config.learning_rate or LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
                    {"params": [dense], "lr": PROMPT_RATE, "weight_decay": 0.0},
                ]
            )
            poly = torch.optim.lr_scheduler.PolynomialLR(optimiser, total_iters=steps, power=0.9)
            for step in range(steps):
                report(stage, step, steps)
                loss = sampler.loss(dense)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                poly.step()
            report(stage, steps, steps)
            trainable = {"decoder LoRA": sum(p.numel() for p in weights), "prompts": dense.numel()}
            return lora_state(tuned), dense.detach().cpu(), trainable


class _Sampler:
    """Draws training rows: a view of a shot, a label, its prompts, and memories of other shots."""

    def __init__(self, lesson: Lesson, views: Memory, found: Prompts) -> None:
        self.lesson = lesson
        self.views = views
        self.found = found
        self.generator = torch.Generator().manual_seed(lesson.config.seed)
        self.slices = Embedding.cat([example.slices for example in lesson.examples])
        self.remembered = Embedding.cat([example.remembered for example in lesson.examples])
        self.masks = torch.cat([example.masks for example in lesson.examples])  # (K*A, L, S, S)
        self.shown = torch.stack([example.masks[0].amax(dim=(1, 2)) > 0.5 for example in lesson.examples]).cpu()

    def loss(self, dense: Tensor) -> Tensor:
        """Return the loss of one batch, seen alone with prompts and, where one model does both, from memory."""
        shot, label = self._draw_rows()
        view = torch.randint(VIEWS, shot.shape, generator=self.generator)
        row = shot * VIEWS + view
        truth = self.masks[row, label][:, None]
        learned = dense[label]
        order = label * len(self.masks) + row
        asked = prompts.spoil(self.found.rows(order), self.generator)
        alone = self.lesson.model.decode(self.slices.rows(row), replace(asked, dense=learned))
        loss = mask_loss(alone, truth)
        if self.lesson.memory_model is not self.lesson.model:
            return loss
        plain = Prompts.empty(len(row), device=truth.device, dense=learned)
        recalled = self.lesson.memory_model.recall(self.remembered.rows(row), self._bank(shot, label), plain)
        return loss + mask_loss(recalled, truth)

    def _draw_rows(self) -> tuple[Tensor, Tensor]:
        """Return shots and labels of a batch: labels equally often, mostly in shots that show them."""
        label = torch.randint(self.shown.shape[1], (BATCH,), generator=self.generator)
        weight = torch.where(self.shown[:, label].T, 1.0, ABSENT)
        return torch.multinomial(weight, 1, generator=self.generator)[:, 0], label

    def _bank(self, shot: Tensor, label: Tensor) -> list[Memory]:
        """Return one to four memories for each row, of other shots that show the label (of itself if none does)."""
        count = len(self.lesson.examples)
        size = int(torch.randint(1, min(4, max(1, count - 1)) + 1, (), generator=self.generator))
        weight = self.shown[:, label].T.float() + 1e-9
        weight[torch.arange(len(shot)), shot] *= 1e-4
        donors = torch.multinomial(weight, size, replacement=True, generator=self.generator)
        view = torch.randint(VIEWS, donors.shape, generator=self.generator)
        labels = self.shown.shape[1]
        rows = (donors * VIEWS + view) * labels + label[:, None]
        return [self.views.rows(rows[:, position]) for position in range(size)]


def _forecast(lesson: Lesson, report: OnStep) -> dict[int, float] | None:
    """Return each label's Dice on shots held out with their patient (each shot, if there is one patient).

    Every fold refits from scratch and segments the held-out slice among its neighbours by the same code as any scan.
    """
    folds = _folds([example.shot.patient for example in lesson.examples])
    if not folds:
        return None
    found: dict[int, list[float]] = {value: [] for value in lesson.labels}
    for number, held_out in enumerate(folds):
        report("forecast", number, len(folds))
        kept = [index for index in range(len(lesson.examples)) if index not in held_out]
        adapter = _learn(lesson.only(kept), silent, "forecast")
        for index in held_out:
            for value, overlap in _score(lesson.examples[index].shot, adapter, lesson).items():
                found[value].append(overlap)
    report("forecast", len(folds), len(folds))
    return {value: float(np.mean(overlaps)) for value, overlaps in found.items() if overlaps}


def _folds(patients: Sequence[str]) -> list[list[int]]:
    """Return which shots each fold holds out: by patient, or by shot where there is one patient; at most `FOLDS`.

    >>> _folds(["a", "a", "b"])
    [[0, 1], [2]]
    >>> _folds(["a"])
    []
    """
    names = sorted(set(patients))
    groups = [[index for index, patient in enumerate(patients) if patient == name] for name in names]
    if len(groups) == 1:
        groups = [[index] for index in groups[0]]
    if len(groups) < 2:
        return []
    merged: list[list[int]] = [[] for _ in range(min(FOLDS, len(groups)))]
    for number, group in enumerate(groups):
        merged[number % len(merged)] += group
    return merged


def _score(shot: Shot, adapter: Adapter, lesson: Lesson) -> dict[int, float]:
    """Return the Dice of each label the shot shows, segmented among its neighbouring slices."""
    scan = shot.scan()
    middle = round(shot.position * (scan.depth - 1))
    first, last = max(0, middle - NEIGHBOURS), min(scan.depth, middle + NEIGHBOURS + 1)
    part = scan.part(first, last)
    result = segment(part, adapter, lesson.model, memory_model=lesson.memory_model)
    found = result.labels.slice(middle - first)
    return {value: dice(found.mask(value), shot.labels.mask(value)) or 0.0 for value in shot.labels.values()}


def _remarks(lesson: Lesson, forecast: dict[int, float] | None) -> tuple[str, ...]:
    """Return what the user should know before trusting the adapter."""
    remarks = []
    if len(lesson.examples) == 1:
        remarks.append("One shot only: nothing could be held out, so there is no forecast.")
    for value, overlap in (forecast or {}).items():
        if overlap < 0.5:
            remarks.append(f"'{lesson.labels[value]}' reached a Dice of only {overlap:.2f} when held out.")
    return tuple(remarks)
