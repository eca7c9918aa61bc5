"""How much each way of looking counts: weights and a level learned on shots that no look was helped by.

A stack of few parameters (Wolpert, 1992): the share of each look in the mean logit, and the level above which the label
is. A level of zero is right for sure masks only; the Dice of unsure ones is highest at a lower one.
Letters: n frames, s the side of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PIXELS = 40_000
ITERATIONS = 60
LEVELS = 41
"""Levels tried, between the lowest and the highest sensible one."""
EXTREME = 2.0
"""No level further from zero than this: few shots must not talk a label in or out of existence."""
USELESS = 0.5
"""Share of the best look's Dice below which another is left out: one that says the same everywhere fits anything."""
DECAY = 1e-3


@dataclass(frozen=True, slots=True)
class Blend:
    """The part of each look in one label's mean logit; shares sum to one.

    Attributes:
        prior: share of the prior, cut at its threshold.
        slice: share of slices decoded alone, from automatic prompts.
        support: share of slices decoded from memories, of shots or of slices before.
        level: the mean logit above which the label is.
    """

    prior: float = 1 / 3
    slice: float = 1 / 3
    support: float = 1 / 3
    level: float = 0.0

    def share(self, look: str) -> float:
        """Return the share of a look; tracks are memories too."""
        return {"prior": self.prior, "slice": self.slice}.get(look, self.support)

    def mean(self, looks: Mapping[str, Tensor]) -> Tensor:
        """Return the mean logit of looks of every kind, kind -> logits, counted from the level."""
        return torch.stack([self.share(kind) * looks[kind].float() for kind in KINDS]).sum(dim=0) - self.level


KINDS = ("prior", "slice", "support")


def fit_blend(looks: Mapping[str, Tensor], truth: Tensor) -> Blend:
    """Return the blend of `looks`, kind -> logits (n, s, s), that comes nearest to `truth` (n, s, s) in [0, 1].

    Shares lie midway between those that minimise the cross-entropy of the blended pixels and those of each look's
    squared Dice, since few shots decide neither for sure. The level maximises the mean Dice of the frames that show the
    label. Every kind must be there; frames of which nothing is true teach what is not there.
    """
    stacked = torch.stack([looks[kind].float() for kind in KINDS], dim=-1)
    merit = torch.stack([_dice_at_best(stacked[..., column], truth > 0.5) for column in range(len(KINDS))])
    useful = merit >= USELESS * merit.max()
    weight = torch.zeros(len(KINDS))
    weight[useful] = _minimise(stacked[..., useful].flatten(0, 2), truth.float().flatten())
    worth = merit.square() * useful + 1e-6
    shares = (weight / weight.sum() + worth / worth.sum()) / 2
    level = _best_level(stacked @ shares, truth > 0.5)
    prior, alone, support = (round(float(share), 4) for share in shares)
    return Blend(prior, alone, support, round(level, 3))


@torch.enable_grad()
def _minimise(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the non-negative weight of each column of `logits` (N, k) in the log-odds of `truth` (N,)."""
    step = max(1, len(logits) // PIXELS)
    columns, target = logits[::step], truth[::step]
    raw = torch.full((columns.shape[1],), -1.0, requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    solver = torch.optim.LBFGS([raw, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        entropy = F.binary_cross_entropy_with_logits(columns @ F.softplus(raw) + bias, target)
        total = entropy + DECAY * F.softplus(raw).square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    solver.step(loss)  # type: ignore[no-untyped-call]
    return F.softplus(raw.detach()) + 1e-4


def _best_level(logits: Tensor, truth: Tensor) -> float:
    """Return the level of best mean Dice over frames (n, s, s) that show the label; the middle one of equals."""
    levels, dice = _dice_by_level(logits, truth)
    best = (dice >= dice.max() - 1e-6).nonzero()[:, 0]
    return float(levels[best[len(best) // 2]])


def _dice_at_best(logits: Tensor, truth: Tensor) -> Tensor:
    return _dice_by_level(logits, truth)[1].max()


def _dice_by_level(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the levels tried, and the mean Dice of the frames that show the label at each; 0 where none does."""
    levels = torch.linspace(-EXTREME, EXTREME, LEVELS)
    shown = truth.flatten(1).any(dim=1)
    if not shown.any():
        return levels, torch.zeros(LEVELS)
    return levels, torch.stack([_dice(logits[shown] > level, truth[shown]) for level in levels])


def _dice(prediction: Tensor, truth: Tensor) -> Tensor:
    both = (prediction & truth).flatten(1).sum(dim=1)
    total: Tensor = prediction.flatten(1).sum(dim=1) + truth.flatten(1).sum(dim=1)
    return (2 * both / total.clamp_min(1)).mean()
