"""Gradient steps: weights and prompts learn from the shots, on one level or two.

Two regimes share one loop. Where the encoder is frozen, views are encoded once and LoRA learns by the published
schedule. Where it is tuned, views are new in every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from amsam_cli.adaptation.episodes import Episodes, FreshEpisodes, KeptEpisodes
from amsam_cli.adaptation.lesson import Lesson
from amsam_cli.adaptation.sights import Scene
from amsam_cli.adapter import Changes
from amsam_cli.adapter.changes import Tuned, tuned
from amsam_cli.methods.bilevel import Batch, Bilevel, Level, Schedule, poly, split
from amsam_cli.models.base import OnStep

PROMPT_RATE = 5e-3


@dataclass(frozen=True, slots=True)
class Regime:
    """How a run goes, by what it tunes.

    Attributes:
        rate: learning rate of the weights.
        decay: their weight decay.
        clip: largest norm of their gradient; None leaves it alone.
        schedule: how rates fall.
        recall: share of the steps that ask from memory too, where views are new.
    """

    rate: float
    decay: float
    clip: float | None
    schedule: Schedule
    recall: float = 0.0


def warm_cosine(progress: float) -> float:
    """Return the rate's share at a share of the steps: up over the first twelfth, down in half a cosine.

    >>> warm_cosine(0.5), round(warm_cosine(0.999), 3)
    (0.5, 0.0)
    """
    return min(1.0, 0.1 + 12 * progress) * (1 + math.cos(math.pi * progress)) / 2


FROZEN = Regime(rate=3e-3, decay=0.1, clip=None, schedule=poly)
FRESH = Regime(rate=2e-3, decay=0.01, clip=1.0, schedule=warm_cosine)


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


def tune(lesson: Lesson, scenes: tuple[Scene, ...], report: OnStep, stage: str) -> Learned:
    """Return what the shots taught in `lesson.config.steps` steps.

    Args:
        lesson: the shots; its configuration is decided.
        scenes: the shots as seen before tuning, at each scale; needed where the encoder is frozen.
        report: told about progress.
        stage: under this name.
    """
    model, config = lesson.model, lesson.config
    dense = nn.Parameter(model.no_prompt().detach().clone().repeat(len(lesson.labels), 1))
    if not config.steps:
        return Learned(Changes(), dense.detach().cpu())
    assert config.tune is not None
    is_fresh = lesson.kept is None
    regime = FRESH if is_fresh else FROZEN
    cuda = [model.device] if model.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        torch.manual_seed(config.seed)
        trained = stack.enter_context(tuned(model, config, config.tune))
        run = _Run(lesson, trained, dense, regime, report, stage)
        if is_fresh:
            run.descend(FreshEpisodes(lesson, recall=regime.recall))
        else:
            run.descend(KeptEpisodes(lesson, scenes))
        counts = {**trained.counts, "prompts": dense.numel()}
        return Learned(trained.changes(), dense.detach().cpu(), counts)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """The steps of one fit."""

    lesson: Lesson
    trained: Tuned
    dense: nn.Parameter
    regime: Regime
    report: OnStep
    stage: str

    def descend(self, episodes: Episodes[Batch]) -> None:
        """Take the steps."""
        config = self.lesson.config
        assert config.steps is not None
        assert config.bilevel is not None
        trainer: Bilevel[Batch] = Bilevel(
            Level(self.trained.parameters, config.learning_rate or self.regime.rate, self.regime.decay),
            Level([self.dense], PROMPT_RATE),
            lambda batch: episodes.loss(batch, self.dense),
            order=config.bilevel,
            schedule=self.regime.schedule,
            clip=self.regime.clip,
        )
        first, second = self._halves(is_joint=config.bilevel == "off")
        for step in range(config.steps):
            self.report(self.stage, step, config.steps)
            held = episodes.draw(second) if second else None
            trainer.step(episodes.draw(first), held, progress=step / config.steps)
        self.report(self.stage, config.steps, config.steps)

    def _halves(self, *, is_joint: bool) -> tuple[list[int], list[int]]:
        """Return the shots of D1 and D2; all and none where both levels learn from all."""
        if is_joint:
            return list(range(len(self.lesson.stills))), []
        shown = [frozenset(row.nonzero()[:, 0].tolist()) for row in self.lesson.shown]
        return split(self.lesson.patients, shown)
