"""What a training step sees, and how its answers are scored.

A batch is drawn first and scored as often as the optimiser wants: bi-level steps look at one batch several times, at
other weights. Every row is asked twice: alone, with automatic prompts, and from the memories of other shots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from amsam_cli.adaptation.augmentation import augment
from amsam_cli.adaptation.lesson import Example, Lesson
from amsam_cli.adaptation.sights import Survey
from amsam_cli.methods import prompts, pseudo_prompt
from amsam_cli.methods.losses import mask_loss
from amsam_cli.models.base import Embedding, Memory, Prompts

ABSENT = 0.15
"""How often a label is asked for in a shot that lacks it, against one that shows it."""
FROZEN_ROWS = 4
FRESH_FRAMES = 8
LABELS = 3
"""Labels asked for in each frame of a batch, at most."""
MOST_MEMORIES = 4
ASKED = 0.4
"""Share of rows that get automatic prompts; the learned prompt must work alone too (BLO-SAM)."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What a step asks.

    Attributes:
        frames: (n,) which view each row is asked of.
        label: (n,).
        truth: (n, 1, S, S).
        donors: (n, m) whose memories each row is asked from; nothing, or -1, where it is not.
    """

    frames: Tensor
    label: Tensor
    truth: Tensor
    donors: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class KeptRows(Rows):
    """Rows over views that were encoded before: with prompts `asked`, of the views of one `survey`."""

    asked: Prompts
    survey: int


@dataclass(frozen=True, slots=True, eq=False)
class FreshRows(Rows):
    """Rows over new views.

    Attributes:
        prompted: (p,) rows that get automatic prompts, which depend on the weights.
        pixels: (B, 3, S, S).
        masks: (B, L, S, S).
        shot: (B,) which shot each view is of.
    """

    prompted: Tensor
    pixels: Tensor
    masks: Tensor
    shot: Tensor


Batch = TypeVar("Batch")


class Episodes(Protocol[Batch]):
    """A source of batches."""

    def draw(self, shots: Sequence[int]) -> Batch:
        """Return a batch of views of these shots."""

    def loss(self, batch: Batch, dense: Tensor) -> Tensor:
        """Return how wrong the model is on a batch, with the learned prompts (L, C)."""


class KeptEpisodes:
    """Batches of views that were encoded once: the encoder and the memory encoder are frozen."""

    def __init__(self, lesson: Lesson, surveys: Sequence[Survey]) -> None:
        self._lesson = lesson
        self._surveys = surveys
        self._shown = lesson.shown
        self._generator = torch.Generator().manual_seed(lesson.config.seed)
        self._slices = [Embedding.cat([each.slices for each in survey.examples]) for survey in surveys]
        self._remembered = [Embedding.cat([each.remembered for each in survey.examples]) for survey in surveys]
        self._masks = [torch.cat([each.masks for each in survey.examples]) for survey in surveys]  # (K*A, L, S, S)
        self._memories = [_memories(survey.examples) for survey in surveys]
        self._memory_masks = [torch.cat([each.memory_masks for each in survey.examples]) for survey in surveys]
        self._views = surveys[0].examples[0].views

    def draw(self, shots: Sequence[int]) -> KeptRows:
        """Return a batch of kept views, of one scale."""
        survey = int(torch.randint(len(self._surveys), (), generator=self._generator))
        shot, label = self._rows(shots)
        view = torch.randint(self._views, shot.shape, generator=self._generator)
        frames = shot * self._views + view
        count = len(self._masks[survey])
        asked = prompts.spoil(self._surveys[survey].found.rows(label * count + frames), self._generator, drop=1 - ASKED)
        truth = self._masks[survey][frames, label][:, None]
        return KeptRows(frames, label, truth, self._donors(shot, label), asked, survey)

    def loss(self, batch: KeptRows, dense: Tensor) -> Tensor:
        """Return the loss of the batch, alone and from memory."""
        lesson, learned = self._lesson, dense[batch.label]
        alone = lesson.model.decode(self._slices[batch.survey].rows(batch.frames), replace(batch.asked, dense=learned))
        loss = mask_loss(alone, batch.truth)
        memories = self._memories[batch.survey]
        if memories is None:
            return loss
        labels = dense.shape[0]
        rows = batch.donors * labels + batch.label[:, None]
        bank = [memories.rows(rows[:, position]) for position in range(rows.shape[1])]
        plain = Prompts.empty(len(learned), device=learned.device, dense=learned)
        answer = lesson.memory_model.recall(self._remembered[batch.survey].rows(batch.frames), bank, plain)
        return loss + mask_loss(answer, self._memory_masks[batch.survey][batch.frames, batch.label][:, None])

    def _rows(self, shots: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return shots and labels of a batch: labels equally often, mostly in shots that show them."""
        label = torch.randint(self._shown.shape[1], (FROZEN_ROWS,), generator=self._generator)
        weight = torch.where(self._shown[list(shots)][:, label].T, 1.0, ABSENT)
        picked = torch.multinomial(weight, 1, generator=self._generator)[:, 0]
        return torch.tensor(list(shots))[picked], label

    def _donors(self, shot: Tensor, label: Tensor) -> Tensor:
        """Return one to four views for each row, of other shots that show the label (of itself if none does)."""
        most = min(MOST_MEMORIES, max(1, len(self._shown) - 1))
        size = int(torch.randint(1, most + 1, (), generator=self._generator))
        weight = self._shown[:, label].T.float() + 1e-9
        weight[torch.arange(len(shot)), shot] *= 1e-4
        donors = torch.multinomial(weight, size, replacement=True, generator=self._generator)
        return donors * self._views + torch.randint(self._views, donors.shape, generator=self._generator)


def _memories(examples: Sequence[Example]) -> Memory | None:
    """Return the memories of all views, rows in the order (shot, view, label); None where none is asked for."""
    parts = [example.memories for example in examples if example.memories is not None]
    return Memory.cat(parts) if parts else None


class FreshEpisodes:
    """Batches of new views, encoded in every step: the encoder is tuned.

    Args:
        lesson: the shots.
        recall: share of the steps that also ask from memory, which costs as much as encoding.
    """

    def __init__(self, lesson: Lesson, *, recall: float) -> None:
        self._lesson = lesson
        self._recall = recall if lesson.remembers_itself else 0.0
        self._shown = lesson.shown
        self._generator = torch.Generator().manual_seed(lesson.config.seed)
        # Views of a part of a frame are as sharp as the finest frames there are.
        whole = lesson.zoomed if lesson.recipe.finer else lesson.stills
        scales = [whole, lesson.zoomed] if lesson.recipe.zoom else [whole]
        self._pixels = [torch.cat([still.pixels[:1] for still in stills]) for stills in scales]
        self._masks = [torch.cat([still.masks[:1] for still in stills]) for stills in scales]
        self.side = lesson.model.image_size

    def draw(self, shots: Sequence[int]) -> FreshRows:
        """Return a batch of new views, `FRESH_FRAMES` of the full frame's pixels shared among them."""
        generator = self._generator
        turns = -(-FRESH_FRAMES // len(shots))
        order = torch.cat([torch.randperm(len(shots), generator=generator) for _ in range(turns)])[:FRESH_FRAMES]
        shot = torch.tensor(list(shots))[order]
        scale = torch.randint(len(self._pixels), shot.shape, generator=generator)
        pixels, masks = augment(
            torch.stack([self._pixels[s][k] for s, k in zip(scale.tolist(), shot.tolist(), strict=True)]),
            torch.stack([self._masks[s][k] for s, k in zip(scale.tolist(), shot.tolist(), strict=True)]),
            generator,
            side=self.side,
        )
        count = min(LABELS, masks.shape[1])
        weight = torch.where(self._shown[shot], 1.0, ABSENT)
        label = torch.multinomial(weight, count, generator=generator).flatten()
        frames = torch.arange(len(shot)).repeat_interleave(count)
        truth = masks[frames, label][:, None]
        donors = self._donors(shot, frames, label, truth)
        prompted = torch.randperm(len(label), generator=generator)[: round(ASKED * len(label))]
        return FreshRows(frames, label, truth, donors, prompted, pixels, masks, shot)

    def loss(self, batch: FreshRows, dense: Tensor) -> Tensor:
        """Return the loss of the batch, alone and, where it has donors, from memory."""
        model, learned = self._lesson.model, dense[batch.label]
        embedding = model.embed(batch.pixels)
        rows = embedding.rows(batch.frames)
        asked = self._prompts(embedding.features.detach(), batch)
        loss = mask_loss(model.decode(rows, replace(asked, dense=learned)), batch.truth)
        some = (batch.donors[:, 0] >= 0).nonzero()[:, 0] if batch.donors.numel() else batch.donors.new_empty(0)
        if not len(some):
            return loss
        used, place = torch.unique(batch.donors[some], return_inverse=True)
        memories = self._lesson.memory_model.remember(rows.rows(used), batch.truth[used])
        bank: list[Memory] = [memories.rows(place[:, position]) for position in range(place.shape[1])]
        plain = Prompts.empty(len(some), device=learned.device, dense=learned[some])
        return loss + mask_loss(self._lesson.memory_model.recall(rows.rows(some), bank, plain), batch.truth[some])

    def _donors(self, shot: Tensor, frames: Tensor, label: Tensor, truth: Tensor) -> Tensor:
        """Return rows of the batch that others remember, (n, m), -1 for rows that are not asked from memory."""
        generator = self._generator
        if torch.rand((), generator=generator) >= self._recall:
            return torch.empty(0, dtype=torch.long)
        of_other_shots = shot[frames][None, :] != shot[frames][:, None]
        useful = of_other_shots & (label[None, :] == label[:, None]) & (truth.amax(dim=(1, 2, 3)) > 0.5).cpu()[None]
        size = int(torch.randint(1, MOST_MEMORIES + 1, (), generator=generator))
        donors = torch.multinomial(useful.float() + 1e-9, size, replacement=True, generator=generator)
        donors[~useful.any(dim=1)] = -1
        skipped = torch.rand(len(donors), generator=generator).argsort()[FRESH_FRAMES // 2 :]
        donors[skipped] = -1
        return donors

    @torch.no_grad()
    def _prompts(self, features: Tensor, batch: FreshRows) -> Prompts:
        """Return automatic prompts of the rows, each frame's prior being made from the other shots of the batch."""
        plain = Prompts.empty(len(batch.label), device=features.device)
        if self._lesson.config.prompts == "none" or len(torch.unique(batch.shot)) < 2:
            return plain
        known = pseudo_prompt.prototypes(features, batch.masks)
        prior = torch.zeros(len(features), batch.masks.shape[1], *features.shape[-2:], device=features.device)
        for shot in torch.unique(batch.shot):
            own, others = (batch.shot == shot).nonzero()[:, 0], (batch.shot != shot).nonzero()[:, 0]
            around = pseudo_prompt.similarities(features, known.only(others.tolist()))
            mine = (around[0][own], around[1][own])
            prior[own] = pseudo_prompt.priors(*mine, over=around).discriminative
        shape = len(batch.label), prompts.POINTS
        points, kinds = torch.zeros(*shape, 2), torch.full(shape, -1, dtype=torch.int32)
        for label in torch.unique(batch.label[batch.prompted]):
            rows = batch.prompted[batch.label[batch.prompted] == label]
            rule = prompts.learn_rule(prior[:, label], batch.masks[:, label]).asking(self._lesson.config.prompts)
            found = prompts.find_prompts(prior[batch.frames[rows], label], rule, self.side)
            points[rows], kinds[rows] = found.points.cpu(), found.point_labels.cpu()
        return Prompts(points.to(features.device), kinds.to(features.device))
