"""What a step of the published AM-SAM sees: one picture as it is, every label of it told apart by one softmax.

BLO-SAM (Zhang et al., ICML 2024) and AM-SAM: batches of one, no augmentation, labels compared on the decoder's own
grid. Unlike their code, all of D2 has its turn, and a structure that a picture lacks does not count as missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.adaptation.lesson import Lesson
from amsam_cli.adaptation.sights import Survey
from amsam_cli.adapter.changes import channels
from amsam_cli.methods.losses import hard_dice, softmax_loss
from amsam_cli.models.base import Embedding


class PublishedEpisodes:
    """Batches of one shot, in a new order every epoch; their type is the shot's number."""

    def __init__(self, lesson: Lesson, survey: Survey) -> None:
        self._model = lesson.model
        self._slices = Embedding.cat([example.slices for example in survey.examples])
        masks = torch.cat([example.masks for example in survey.examples])
        self._classes = _classes(masks, lesson.model.image_size // 4)
        self._asked = survey.found
        self._labels = torch.arange(len(lesson.labels))
        self._generator = torch.Generator().manual_seed(lesson.config.seed)
        self._waiting: dict[tuple[int, ...], list[int]] = {}

    def draw(self, shots: Sequence[int]) -> int:
        """Return the next of these shots; each has its turn before any has its second."""
        waiting = self._waiting.setdefault(tuple(shots), [])
        if not waiting:
            order = torch.randperm(len(shots), generator=self._generator).tolist()
            waiting += [shots[index] for index in order]
        return waiting.pop()

    def loss(self, batch: int, dense: Tensor) -> Tensor:
        """Return the published loss of one shot."""
        return softmax_loss(self._logits(batch, dense), self._classes[batch][None])

    @torch.no_grad()
    def score(self, shots: Sequence[int], dense: Tensor) -> float:
        """Return the mean Dice of the labels that some shots show, by the highest class."""
        found = []
        for shot in shots:
            logits, truth = self._logits(shot, dense)[0], self._classes[shot]
            winner = torch.cat([torch.zeros_like(logits[:1]), logits]).argmax(dim=0)
            shown = torch.unique(truth)
            found += [hard_dice((winner == c)[None], (truth == c)[None]) for c in shown[shown > 0]]
        return float(torch.cat(found).mean()) if found else 0.0

    def _logits(self, shot: int, dense: Tensor) -> Tensor:
        """Return every label of a shot against its background, (1, L, s, s)."""
        labels = len(self._labels)
        asked = self._asked.rows(self._labels * len(self._classes) + shot)
        asked = replace(asked, dense=dense.expand(labels, -1), channel=channels(labels + 1))
        slices = self._slices.rows([shot]).repeat(labels)
        return self._model.decode(slices, asked).logits.transpose(0, 1)


def _classes(masks: Tensor, side: int) -> Tensor:
    """Return the class of each pixel (K, side, side): the largest share of the nearest one in masks (K, L, S, S)."""
    near = F.interpolate(masks, size=(side, side), mode="nearest")
    return torch.cat([1 - near.sum(dim=1, keepdim=True), near], dim=1).argmax(dim=1)
