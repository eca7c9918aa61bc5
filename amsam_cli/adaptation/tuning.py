"""Gradient steps: weights and prompts learn from the shots, on one level or two.

Three regimes share one loop. Where the encoder is frozen, views are encoded once and LoRA learns by the published
schedule. Where it is tuned, views are new in every step. The paper's own learns from one shot a step, as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import repeat
from random import Random

import torch
from torch import Tensor, nn

from amsam_cli.adaptation.episodes import Episodes, FreshEpisodes, KeptEpisodes
from amsam_cli.adaptation.lesson import Lesson
from amsam_cli.adaptation.published import PublishedEpisodes
from amsam_cli.adaptation.sights import Survey
from amsam_cli.adapter import Changes
from amsam_cli.adapter.changes import Tuned, tuned
from amsam_cli.methods.bilevel import Batch, Bilevel, Level, Schedule, poly, split
from amsam_cli.models.base import OnStep

PROMPT_RATE = 5e-3
RECALL = 0.5
"""Share of the steps that ask from memory where that is to be learned."""


@dataclass(frozen=True, slots=True)
class Regime:
    """How a run goes, by what it tunes.

    Attributes:
        rate: learning rate of the weights.
        decay: their weight decay.
        clip: largest norm of their gradient; None leaves it alone.
        schedule: how rates fall.
        recall: share of the steps that ask from memory too, where views are new.
        prompt_decay: weight decay of the learned prompts.
        redraws: whether the halves of two levels are drawn anew in every step.
    """

    rate: float
    decay: float
    clip: float | None
    schedule: Schedule
    recall: float = 0.0
    prompt_decay: float = 0.0
    redraws: bool = True


def warm_cosine(progress: float) -> float:
    """Return the rate's share at a share of the steps: up over the first twelfth, down in half a cosine.

    >>> warm_cosine(0.5), round(warm_cosine(0.999), 3)
    (0.5, 0.0)
    """
    return min(1.0, 0.1 + 12 * progress) * (1 + math.cos(math.pi * progress)) / 2


FROZEN = Regime(rate=3e-3, decay=0.1, clip=None, schedule=poly)
FRESH = Regime(rate=2e-3, decay=0.01, clip=1.0, schedule=warm_cosine)
PUBLISHED = Regime(rate=5e-3, decay=0.1, clip=None, schedule=poly, prompt_decay=0.1, redraws=False)


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What the steps left.

    Attributes:
        changes: of the model's weights.
        dense: (L, C) learned prompt of each label.
        trainable: module -> number of trained parameters.
    """

    changes: Changes
    dense: Tensor
    trainable: Mapping[str, int] = field(default_factory=dict)


def tune(lesson: Lesson, surveys: tuple[Survey, ...], report: OnStep, stage: str) -> Learned:
    """Return what the shots taught in `lesson.config.steps` steps.

    Args:
        lesson: the shots; its configuration is decided.
        surveys: the shots as seen before tuning, at each scale; needed where the encoder is frozen.
        report: told about progress.
        stage: under this name.
    """
    model, config, labels = lesson.model, lesson.config, len(lesson.labels)
    dense = nn.Parameter(model.no_prompt().detach().clone().repeat(1 if lesson.is_published else labels, 1))
    if not config.steps:
        return Learned(Changes(), dense.detach().cpu().repeat(labels // len(dense), 1))
    assert config.tune is not None
    is_fresh = lesson.kept is None
    regime = PUBLISHED if lesson.is_published else FRESH if is_fresh else FROZEN
    cuda = [model.device] if model.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        torch.manual_seed(config.seed)
        tokens = labels + 1 if lesson.is_published else 0
        trained = stack.enter_context(tuned(model, config, config.tune, tokens=tokens))
        run = _Run(lesson, trained, dense, regime, report, stage)
        if lesson.is_published:
            episodes = PublishedEpisodes(lesson, surveys[0])
            run.descend(episodes, score=lambda held: episodes.score(held, dense))
        elif is_fresh:
            run.descend(FreshEpisodes(lesson, recall=RECALL if config.episodes else regime.recall))
        else:
            run.descend(KeptEpisodes(lesson, surveys))
        counts = {**trained.counts, "prompts": dense.numel()}
        return Learned(trained.changes(), dense.detach().cpu().repeat(labels // len(dense), 1), counts)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """The steps of one fit."""

    lesson: Lesson
    trained: Tuned
    dense: nn.Parameter
    regime: Regime
    report: OnStep
    stage: str

    def descend(self, episodes: Episodes[Batch], *, score: Callable[[Sequence[int]], float] | None = None) -> None:
        """Take the steps; with a `score` of shots, keep the values of the epoch that was best on those held out."""
        config = self.lesson.config
        assert config.steps is not None
        assert config.bilevel is not None
        trainer: Bilevel[Batch] = Bilevel(
            Level(self.trained.parameters, config.learning_rate or self.regime.rate, self.regime.decay),
            Level([self.dense], PROMPT_RATE, self.regime.prompt_decay),
            lambda batch: episodes.loss(batch, self.dense),
            order=config.bilevel,
            schedule=self.regime.schedule,
            clip=self.regime.clip,
        )
        best = _Best([*self.trained.parameters, self.dense])
        for step, (first, second) in zip(range(config.steps), self._halves(), strict=False):
            self.report(self.stage, step, config.steps)
            held = episodes.draw(second) if second else None
            trainer.step(episodes.draw(first), held, progress=step / config.steps)
            if score and second and (step + 1) % len(first) == 0:
                best.offer(score(second))
        best.restore()
        self.report(self.stage, config.steps, config.steps)

    def _halves(self) -> Iterator[tuple[list[int], list[int]]]:
        """Yield the shots of D1 and D2 of each step, without end; all and none where both levels learn from all."""
        if self.lesson.config.bilevel == "off":
            yield from repeat((list(range(len(self.lesson.stills))), []))
        shown = [frozenset(row.nonzero()[:, 0].tolist()) for row in self.lesson.shown]
        chance = Random(self.lesson.config.seed) if self.regime.redraws else None
        while True:
            yield split(self.lesson.patients, shown, chance)


class _Best:
    """The values of some parameters when they scored highest, the earlier of equals."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._values: list[Tensor] = []
        self._score = -1.0

    def offer(self, score: float) -> None:
        """Keep the values of now if they score higher than any before."""
        if score > self._score:
            self._score = score
            self._values = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best values back; those of now stay where nothing was offered."""
        for parameter, value in zip(self._parameters, self._values, strict=False):
            parameter.copy_(value)
