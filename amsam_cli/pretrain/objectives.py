"""What the network is asked in one pretraining step, and how its answers are scored.

Three questions over the same encoded frames: the thing shown in the supports, in another patient; the same thing from
slice to slice, with the network's own masks as memory; the thing under a box or a click. Knows models, not data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.methods.losses import hard_dice, hard_iou, mask_loss, to_side
from amsam_cli.models.base import Decoded, Embedding, Memory, Prompts
from amsam_cli.models.sam2 import Sam2
from amsam_cli.pretrain.anatomy import smooth_noise
from amsam_cli.pretrain.synthesis import Episodes

SMUDGED = 0.25
"""Share of support masks that are spoiled, so that memory learns to bear its own mistakes."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Loss and mean Dice of one step, by question."""

    loss: Tensor
    dice: dict[str, float]


def ask(model: Sam2, episodes: Episodes, generator: torch.Generator) -> Answers:
    """Return how well the model answers one batch of episodes; the loss carries gradients."""
    batch, frames = episodes.pixels.shape[:2]
    shown = episodes.supports
    embedding = model.embed(episodes.pixels.flatten(0, 1))
    index = torch.arange(batch * frames, device=episodes.pixels.device).view(batch, frames)
    masks = episodes.masks
    bank = [model.remember(embedding.rows(index[:, k]), _smudge(masks[:, k], generator)) for k in range(shown)]
    queries = [embedding.rows(index[:, t]) for t in range(shown, frames)]
    truths = [masks[:, t] for t in range(shown, frames)]
    follow = _track if episodes.consecutive else _match
    recalled = follow(model, queries, bank)
    everything = masks.flatten(0, 1)
    prompted = model.decode(embedding, prompts_from(everything, generator))
    losses = [_loss(answer, truth) for answer, truth in zip(recalled, truths, strict=True)]
    name = "track" if episodes.consecutive else "match"
    dice = {
        name: _mean_dice(torch.cat([a.logits for a in recalled]), torch.cat(truths)),
        "prompt": _mean_dice(prompted.logits, everything),
    }
    return Answers(torch.stack(losses).mean() + _loss(prompted, everything), dice)


def prompts_from(masks: Tensor, generator: torch.Generator) -> Prompts:
    """Return a box or a click for each mask (B, 1, S, S): boxes jittered, clicks anywhere inside.

    An empty mask gets a prompt that shows nothing, and the right answer is "not here".
    """
    rows = [_prompt_of(mask[0], generator) for mask in masks.cpu()]
    points = torch.tensor([[[x, y] for x, y, _ in row] for row in rows], device=masks.device)
    labels = torch.tensor([[kind for *_, kind in row] for row in rows], dtype=torch.int32, device=masks.device)
    return Prompts(points, labels)


def _prompt_of(mask: Tensor, generator: torch.Generator) -> list[tuple[float, float, int]]:
    """Return two points of one prompt: the corners of a box, or a click and padding."""
    inside = mask.nonzero()
    if not len(inside):
        return [(0.0, 0.0, -1), (0.0, 0.0, -1)]
    if torch.rand((), generator=generator) < 0.35:
        y, x = inside[torch.randint(len(inside), (), generator=generator)].tolist()
        return [(float(x), float(y), 1), (0.0, 0.0, -1)]
    (top, left), (bottom, right) = inside.amin(dim=0).tolist(), inside.amax(dim=0).tolist()
    slack = 0.1 * max(bottom - top, right - left, 4)
    jitter = (slack * torch.randn(4, generator=generator)).tolist()
    return [(left + jitter[0], top + jitter[1], 2), (right + jitter[2], bottom + jitter[3], 3)]


def _match(model: Sam2, queries: list[Embedding], bank: list[Memory]) -> list[Decoded]:
    """Return each query decoded from the supports alone, all in one pass."""
    count = len(queries)
    together = model.recall(Embedding.cat(queries), [Memory.cat([memory] * count) for memory in bank])
    rows = len(queries[0])
    return [together.rows(slice(start, start + rows)) for start in range(0, count * rows, rows)]


def _track(model: Sam2, queries: list[Embedding], bank: list[Memory]) -> list[Decoded]:
    """Return the queries decoded one after another, each remembering the network's masks of those before."""
    answers: list[Decoded] = []
    tracked: list[Memory] = []
    for query in queries:
        ages = range(len(tracked), 0, -1)
        memories = [*bank, *(memory.aged(age) for memory, age in zip(tracked, ages, strict=True))]
        answer = model.recall(query, memories)
        answers.append(answer)
        if len(answers) < len(queries):
            tracked.append(model.remember(query, to_side(answer.logits, model.image_size).sigmoid()))
    return answers


def _smudge(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Return masks (B, 1, S, S) of which some have soft, wrong borders."""
    size = masks.shape[-1]
    noise = smooth_noise((len(masks), 1, size, size), 10, generator).to(masks.device)
    soft = F.avg_pool2d(masks, 7, stride=1, padding=3)
    spoiled = (8.0 * (soft - 0.5 + 0.25 * noise * (soft > 0.05))).sigmoid()
    chosen = torch.rand(len(masks), 1, 1, 1, generator=generator) < SMUDGED
    return torch.where(chosen.to(masks.device), spoiled, masks)


def _loss(answer: Decoded, truth: Tensor) -> Tensor:
    """Return the mask loss of one question, and how wrong the predicted IoU was."""
    achieved = hard_iou(to_side(answer.logits.detach(), truth.shape[-1]) > 0, truth > 0.5)
    return mask_loss(answer, truth, dice_weight=0.35) * 3 + 0.1 * F.l1_loss(answer.score, achieved)


def _mean_dice(logits: Tensor, truth: Tensor) -> float:
    """Return the mean hard Dice over rows whose truth is not empty."""
    present = truth.flatten(1).amax(dim=1) > 0
    if not present.any():
        return float("nan")
    hard = to_side(logits.detach(), truth.shape[-1]) > 0
    return float(hard_dice(hard, truth > 0.5)[present].mean())
