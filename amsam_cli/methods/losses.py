"""Losses on masks and scores, shared by adaptation and pretraining.

BLO-SAM and AM-SAM weigh Dice 0.8 against 0.2 of cross-entropy; absence is learned by the presence score.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.models.base import Decoded

DICE_WEIGHT = 0.8
PRESENCE_WEIGHT = 0.05


def mask_loss(answer: Decoded, truth: Tensor, *, dice_weight: float = DICE_WEIGHT) -> Tensor:
    """Return cross-entropy + soft Dice on the pixels of `truth` (B, 1, S, S) in [0, 1], averaged over rows.

    Rows whose truth is empty have no Dice; they teach by cross-entropy and presence.
    """
    logits = to_side(answer.logits, truth.shape[-1])
    present = (truth.flatten(1).amax(dim=1) > 0.5).float()
    entropy = F.binary_cross_entropy_with_logits(logits, truth)
    missed = (1 - soft_dice(logits.sigmoid(), truth)) * present
    dice = missed.sum() / present.sum().clamp_min(1)
    presence = F.binary_cross_entropy_with_logits(answer.presence, present)
    return (1 - dice_weight) * entropy + dice_weight * dice + PRESENCE_WEIGHT * presence


def softmax_loss(logits: Tensor, classes: Tensor, *, dice_weight: float = DICE_WEIGHT) -> Tensor:
    """Return the loss of BLO-SAM and AM-SAM: cross-entropy + Dice of a softmax, the background being a class too.

    Args:
        logits: (B, L, s, s), of each label against the background.
        classes: (B, s, s) int64, 0 for background, then the labels in their order.
        dice_weight: lambda of (1 - lambda) CE + lambda Dice; sums run over the batch and its pixels.
    """
    scores = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
    likely = scores.softmax(dim=1)
    truth = F.one_hot(classes, scores.shape[1]).movedim(-1, 1).to(likely)
    both, size = (part.sum(dim=(0, 2, 3)) for part in (likely * truth, likely.square() + truth))
    dice = (1 - (2 * both + 1e-5) / (size + 1e-5)).mean()
    return (1 - dice_weight) * F.cross_entropy(scores, classes) + dice_weight * dice


def soft_dice(probability: Tensor, truth: Tensor) -> Tensor:
    """Return 2 sum(p y) / (sum(p) + sum(y)) of each row of (B, 1, S, S), smoothed by one pixel: (B,)."""
    both = (probability * truth).flatten(1).sum(dim=1)
    return (2 * both + 1) / (probability.flatten(1).sum(dim=1) + truth.flatten(1).sum(dim=1) + 1)


def hard_dice(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return the Dice of each row of two bool tensors (B, ...), (B,); both empty: 1."""
    both = (prediction & truth).flatten(1).sum(dim=1)
    total = prediction.flatten(1).sum(dim=1) + truth.flatten(1).sum(dim=1)
    return torch.where(total > 0, 2 * both / total.clamp_min(1), 1.0)


def hard_iou(prediction: Tensor, truth: Tensor) -> Tensor:
    """Return intersection over union of each row of two bool tensors (B, ...), (B,); both empty: 1."""
    dice = hard_dice(prediction, truth)
    return dice / (2 - dice)


def to_side(logits: Tensor, side: int) -> Tensor:
    """Return maps (B, 1, s, s) at another resolution, (B, 1, side, side)."""
    if logits.shape[-1] == side:
        return logits
    return F.interpolate(logits, size=side, mode="bilinear", align_corners=False)
