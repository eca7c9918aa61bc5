"""Volume + Adapter -> Segmentation: automatic prompts, key slices, memory both ways, fusion, one label map.

Each label is looked at in three ways: decoded slice by slice from automatic prompts (AM-SAM), decoded from the
supports in memory (FSSAM's setting), and carried from a key slice through its neighbours (SAM 2). Knows no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amsam_cli import models
from amsam_cli.adapter import Adapter, Trust
from amsam_cli.methods import prompts, pseudo_prompt
from amsam_cli.methods.losses import hard_dice, to_side
from amsam_cli.models.base import Decoded, Embedding, Memory, MemoryModel, OnStep, PromptableModel, Prompts, silent
from amsam_cli.preprocess import Frames, Placement
from amsam_cli.volume import LabelMap, Volume

BATCH = 16
TRACKED = 6
"""SAM 2 attends to the last six frames."""
PATIENCE = 3
"""Slices in a row without the object after which a direction stops."""
CLIP = 10.0
TRACK_WEIGHT = 2.0
"""A neighbour of the same scan says more than a slice of another patient."""
REACH = 10.0
"""Slices after which a key slice's word counts a third."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """What `segment` found.

    Attributes:
        labels: the label map on the volume's own grid.
        confidence: label value -> (D,) in [0, 1], how well the three ways agree on each slice.
        seeds: label value -> slice from which it was carried through the volume.
        warnings: what the user should know.
        probabilities: label value -> (D, H, W) float16 in [0, 1]; with the background's they sum to one at each voxel.
            Empty unless asked for.
    """

    labels: LabelMap
    confidence: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    seeds: Mapping[int, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    probabilities: Mapping[int, NDArray[np.float16]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One way of seeing one label on every slice: logits (D, s, s), predicted IoU (D,), presence in [0, 1] (D,)."""

    logits: Tensor
    score: Tensor
    presence: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Every slice's features, from the model that decodes slices and from the model that remembers."""

    model: PromptableModel
    memory_model: MemoryModel
    slices: Embedding
    remembered: Embedding

    @property
    def depth(self) -> int:
        """Number of slices."""
        return len(self.slices)


def segment(
    volume: Volume,
    adapter: Adapter,
    model: PromptableModel | None = None,
    *,
    memory_model: MemoryModel | None = None,
    on_step: OnStep | None = None,
    with_probabilities: bool = False,
) -> Segmentation:
    """Return the labels of `volume`, on its own grid, as the adapter's shots taught.

    Args:
        volume: read with the plane of `adapter.recipe`.
        adapter: from `adapt` or `Adapter.load`.
        model: the adapter's backbone; loaded when None.
        memory_model: the adapter's memory backbone; loaded when None.
        on_step: told about progress.
        with_probabilities: whether to return the probability of each label at each voxel too.

    Raises:
        AdapterError: the adapter was made for another model.
    """
    model = model or models.load(adapter.backbone.name)
    memory_model = memory_model or _memory_model_of(adapter, model)
    report = on_step or silent
    with torch.no_grad(), adapter.attach(model):
        encoded = _encode(volume, adapter, model, memory_model, report)
        prior = _prior(encoded.slices.features, adapter)
        fused, seeds, confidence = [], {}, {}
        for index, value in enumerate(adapter.labels):
            report("segment", index, len(adapter.labels))
            looks, seed = _look(encoded, adapter, index, prior[:, index])
            fused.append(_fuse(looks, seed, adapter.whole.trust[index]))
            confidence[value] = _agreement([*looks.values()]).numpy()
            if seed is not None:
                seeds[value] = seed
        report("segment", len(adapter.labels), len(adapter.labels))
    labels, probabilities = _merge(fused, volume, adapter, with_probabilities=with_probabilities)
    return Segmentation(labels, confidence, seeds, _remarks(labels, adapter), probabilities)


def _memory_model_of(adapter: Adapter, model: PromptableModel) -> MemoryModel:
    """Return the model itself where it is its own memory, else the adapter's other one."""
    if adapter.memory_backbone == adapter.backbone and isinstance(model, MemoryModel):
        return model
    loaded = models.load(adapter.memory_backbone.name, str(model.device))
    assert isinstance(loaded, MemoryModel)
    return loaded


def _encode(
    volume: Volume, adapter: Adapter, model: PromptableModel, memory_model: MemoryModel, report: OnStep
) -> Encoded:
    """Return features of every slice, once for all labels, in half precision."""
    slices = _encode_with(model, Frames(volume, adapter.recipe), report)
    if memory_model is model:
        return Encoded(model, memory_model, slices, slices)
    recipe = replace(adapter.recipe, image_size=memory_model.image_size)
    return Encoded(model, memory_model, slices, _encode_with(memory_model, Frames(volume, recipe), report))


def _encode_with(model: PromptableModel, frames: Frames, report: OnStep) -> Embedding:
    parts = []
    for start, pixels in frames.batches(BATCH):
        report("encode", start, len(frames))
        parts.append(model.encode(pixels.to(model.device)).to(torch.float16))
    report("encode", len(frames), len(frames))
    return Embedding.cat(parts)


def _prior(features: Tensor, adapter: Adapter) -> Tensor:
    """Return where each label may be, (D, L, h, w), scaled over the volume."""
    known = adapter.whole.bank.prototypes
    on_device = pseudo_prompt.Prototypes(
        *(part.to(features.device) for part in (known.foreground, known.background, known.present))
    )
    return pseudo_prompt.priors(*pseudo_prompt.similarities(features, on_device)).discriminative


def _look(encoded: Encoded, adapter: Adapter, label: int, prior: Tensor) -> tuple[dict[str, Look], int | None]:
    """Return the three looks at one label, and its key slice; None where the label is nowhere."""
    bank = adapter.whole.bank.memories(label, encoded.memory_model.device)
    dense = adapter.dense[label].to(encoded.model.device)
    found = prompts.find_prompts(prior, adapter.whole.rules[label], encoded.model.image_size)
    looks = {"slice": _decode_slices(encoded, found, dense)}
    if not bank:
        return looks, None
    own_prompt = dense if encoded.memory_model is encoded.model else None
    looks["support"] = _recall_slices(encoded, bank, own_prompt)
    if encoded.depth == 1:
        return looks, None
    seed = _key_slice(looks["slice"], looks["support"])
    if seed is not None:
        for name, order in (("forward", range(seed + 1, encoded.depth)), ("backward", range(seed - 1, -1, -1))):
            looks[name] = _track(encoded, bank, own_prompt, _Seed(seed, looks["support"]), order)
    return looks, seed


def _chunks(depth: int) -> Iterator[slice]:
    return (slice(start, min(start + BATCH, depth)) for start in range(0, depth, BATCH))


def _decode_slices(encoded: Encoded, found: Prompts, dense: Tensor) -> Look:
    """Return each slice decoded alone, from its automatic prompts and the label's learned one."""
    answers = []
    for rows in _chunks(encoded.depth):
        embedding = encoded.slices.rows(rows).to(torch.float32)
        learned = dense.expand(len(embedding), -1)
        answers.append(encoded.model.decode(embedding, replace(found.rows(rows), dense=learned)))
    return _as_look(answers)


def _recall_slices(encoded: Encoded, bank: list[Memory], dense: Tensor | None) -> Look:
    """Return each slice decoded from the supports in memory."""
    answers = []
    for rows in _chunks(encoded.depth):
        embedding = encoded.remembered.rows(rows).to(torch.float32)
        count = len(embedding)
        repeated = [memory.repeat(count) for memory in bank]
        answers.append(encoded.memory_model.recall(embedding, repeated, _learned(dense, count, embedding)))
    return _as_look(answers)


def _learned(dense: Tensor | None, rows: int, embedding: Embedding) -> Prompts:
    """Return prompts without points, with the label's learned prompt where the model has one."""
    learned = None if dense is None else dense.expand(rows, -1)
    return Prompts.empty(rows, device=embedding.features.device, dense=learned)


def _as_look(answers: list[Decoded]) -> Look:
    """Return decoded batches as one look, on the CPU."""
    joined = Decoded.cat(answers).to("cpu")
    logits = joined.logits[:, 0].clamp(-CLIP, CLIP)
    return Look(logits, joined.score.clamp(0, 1), joined.presence.sigmoid())


def _key_slice(alone: Look, supported: Look) -> int | None:
    """Return the slice most surely right: both looks agree, both models think well of it, and the object is large.

    Size enters by its square root: the largest cross-section is the best single prompt SAM 2 can get.
    """
    first, second = _same_side(alone.logits > 0, supported.logits > 0)
    agreement = hard_dice(first, second)
    area = second.flatten(1).float().mean(dim=1)
    quality = agreement * supported.score * supported.presence * (area / area.max().clamp_min(1e-9)).sqrt()
    best = int(quality.argmax())
    return best if area[best] > 0 and supported.presence[best] > 0.5 else None


@dataclass(frozen=True, slots=True, eq=False)
class _Seed:
    """Where tracking starts, and what was seen there."""

    index: int
    look: Look


def _track(encoded: Encoded, bank: list[Memory], dense: Tensor | None, seed: _Seed, order: range) -> Look:
    """Return the label carried from the seed slice along `order`; slices not reached have no score.

    A slice the model finds empty or doubtful never enters memory, so that one error does not feed the next.
    """
    model = encoded.memory_model
    look = _nothing(encoded.depth, seed.look.logits.shape[-1])
    key = _remember(encoded, seed.index, seed.look.logits[seed.index])
    tracked: list[Memory] = []
    missed = 0
    for index in order:
        embedding = encoded.remembered.rows([index]).to(torch.float32)
        aged = [memory.aged(age) for age, memory in enumerate(reversed(tracked[-TRACKED:]), start=1)]
        answer = model.recall(embedding, [*bank, key, *aged], _learned(dense, 1, embedding))
        seen = _as_look([answer])
        look.logits[index], look.score[index], look.presence[index] = seen.logits[0], seen.score[0], seen.presence[0]
        missed = missed + 1 if seen.presence[0] < 0.5 else 0
        if missed >= PATIENCE:
            break
        if seen.presence[0] >= 0.5 and seen.score[0] >= 0.5:
            tracked.append(_remember(encoded, index, seen.logits[0]))
    return look


def _remember(encoded: Encoded, index: int, logits: Tensor) -> Memory:
    """Return the memory of one slice with the mask just found."""
    model = encoded.memory_model
    mask = to_side(logits[None, None].to(model.device), model.image_size).sigmoid()
    return model.remember(encoded.remembered.rows([index]).to(torch.float32), mask)


def _nothing(depth: int, side: int) -> Look:
    return Look(torch.full((depth, side, side), -CLIP), torch.zeros(depth), torch.zeros(depth))


def _fuse(looks: dict[str, Look], seed: int | None, trust: Trust) -> Tensor:
    """Return the weighted mean of the looks' logits, (D, s, s); where none that counts sees the label, it is empty.

    A look counts by its predicted IoU and by how well its kind did on the shots; tracks fade with distance from the
    key slice.
    """
    side = max(look.logits.shape[-1] for look in looks.values())
    depth = len(next(iter(looks.values())).score)
    fading = torch.exp(-(torch.arange(depth) - (seed or 0)).abs() / REACH)
    total, norm = torch.zeros(depth, side, side), torch.full((depth, 1, 1), 1e-6)
    presence = torch.zeros(depth)
    for name, look in looks.items():
        worth = (trust.slice if name == "slice" else trust.support) ** 2 + 1e-3
        weight = worth * look.score * (TRACK_WEIGHT * fading if name in ("forward", "backward") else 1.0)
        total += weight[:, None, None] * to_side(look.logits[:, None], side)[:, 0]
        norm += weight[:, None, None]
        presence += weight * look.presence
    present = presence / norm[:, 0, 0] >= 0.5
    return torch.where(present[:, None, None], total / norm, -CLIP)


def _same_side(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two bool stacks (D, s, s) at the larger of their resolutions."""
    side = max(first.shape[-1], second.shape[-1])
    one, other = (to_side(stack[:, None].float(), side)[:, 0] > 0.5 for stack in (first, second))
    return one, other


def _agreement(looks: list[Look]) -> Tensor:
    """Return the mean Dice of every pair of looks on each slice, (D,); looks that never reached it do not count."""
    total = torch.zeros(len(looks[0].score))
    pairs = torch.zeros_like(total)
    for position, first in enumerate(looks):
        for second in looks[position + 1 :]:
            both = ((first.score > 0) & (second.score > 0)).float()
            total += both * hard_dice(*_same_side(first.logits > 0, second.logits > 0))
            pairs += both
    return torch.where(pairs > 0, total / pairs.clamp_min(1), 0.0)


def _merge(
    fused: list[Tensor], volume: Volume, adapter: Adapter, *, with_probabilities: bool = False
) -> tuple[LabelMap, dict[int, NDArray[np.float16]]]:
    """Return the label with the highest logit at each voxel of the volume's own grid, background being 0.

    Logits, not masks, are brought to the scan's voxels, in slabs, so that memory does not grow with depth. The
    probabilities, where asked for, are their softmax: the most probable is the label.
    """
    placement = Placement.of(volume.geometry, adapter.recipe.image_size)
    shape, values = volume.geometry.shape, [0, *adapter.labels]
    merged = np.zeros(shape, dtype=np.uint16)
    probabilities = {value: np.zeros(shape, np.float16) for value in adapter.labels if with_probabilities}
    side = max(logits.shape[-1] for logits in fused)
    for rows in _chunks(volume.depth):
        slab = placement.restore(torch.stack([to_side(logits[rows, None], side)[:, 0] for logits in fused], dim=1))
        logits = torch.cat([torch.zeros_like(slab[:, :1]), slab], dim=1)
        merged[rows] = torch.tensor(values)[logits.argmax(dim=1)].numpy().astype(np.uint16)
        if with_probabilities:
            for stack, likely in zip(probabilities.values(), logits.softmax(dim=1)[:, 1:].unbind(1), strict=True):
                stack[rows] = likely.numpy()
    return LabelMap(merged, volume.geometry, dict(adapter.labels)), probabilities


def _remarks(labels: LabelMap, adapter: Adapter) -> tuple[str, ...]:
    """Return a warning for each label that was not found anywhere."""
    found = set(labels.values())
    return tuple(f"No '{name}' was found." for value, name in adapter.labels.items() if value not in found)
