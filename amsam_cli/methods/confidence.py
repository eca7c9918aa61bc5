"""How good a mask should be, with no truth to ask: by its own probabilities, by the shots, and by asking back.

A mask's own probabilities say best which of two is better, but are far too sure: their fourth power is at the level of
the truth. The shots are heard for the other half. What their masks were worth, each segmented without itself, is
the level of the label; the forecast, where there is one, saw tuning too. Reverse accuracy (Valindria et al., 2017;
RevSAM2, 2024) asks back: a shot is segmented with the result as the only memory, and where the result is of something
else, the shot's own mask is not found again. With a single shot there is no other than asking back, and it flatters: it
asks for what the mask was made from.
Letters: n frames, s the side of logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FRAMES = 16
"""Frames looked at at once."""
SURE = 4
"""Power that brings what is too sure, a mask's own estimate or asking back alone, to the level of the truth."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """What one label's masks on the shots were worth, each shot segmented without itself.

    Attributes:
        own: the Dice they expected of themselves, in the mean over frames that show the label.
        dice: the Dice they had; None where there is one shot, which cannot be segmented without itself.
    """

    own: float
    dice: float | None = None


def own_estimate(logits: Tensor) -> Tensor:
    """Return 2 sum(p m) / (sum(p) + sum(m)) of probabilities p and their mask m, (...,) for logits (..., s, s).

    The Dice to be expected if each pixel's probability is right; 0 where there is no mask.

    >>> own_estimate(torch.full((1, 2, 2), 20.0)).tolist(), own_estimate(torch.full((1, 2, 2), -20.0)).tolist()
    ([1.0], [0.0])
    """
    values = []
    for part in logits.flatten(0, -3).split(FRAMES):  # type: ignore[no-untyped-call]
        likely = part.float().flatten(1).sigmoid()
        mask = (likely > 0.5).float()
        values.append(2 * (likely * mask).sum(dim=1) / (likely + mask).sum(dim=1).clamp_min(1e-6))
    return torch.cat(values).view(logits.shape[:-2])


def expected_dice(own: float, gauge: Gauge | None, *, forecast: float | None, reverse: float | None) -> float:
    """Return the Dice to be expected of a label's mask, in [0, 1]: half by its own estimate, half by the shots.

    Args:
        own: `own_estimate` of the mask.
        gauge: of the label.
        forecast: the label's Dice on shots held out from tuning too.
        reverse: its Dice on the shots, segmented from the mask.

    To the shots, a mask half as sure as theirs were is about half as good: anchors move with exp(own - gauge.own).

    >>> round(expected_dice(0.9, Gauge(0.9, 0.6), forecast=0.4, reverse=0.2), 3)
    0.528
    """
    anchors = [] if gauge is None else [value for value in (gauge.dice, forecast) if value is not None]
    witnesses = [min(1.0, value * math.exp(own - gauge.own)) for value in anchors] if gauge else []
    witnesses += [] if reverse is None else [reverse if witnesses else reverse**SURE]
    alone = own**SURE
    return (alone + sum(witnesses) / len(witnesses)) / 2 if witnesses else alone
