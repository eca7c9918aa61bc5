"""What the network is asked in one pretraining step, and how its answers are scored.

Questions over the same encoded frames: the thing shown in the supports, in another patient, by memory, and everything
shown there, by a linear classifier of the features; the thing from slice to slice, with the network's own masks as
memory; the thing under a box or a click. Knows models, not data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.methods.calibrated_attention import calibrate
from amsam_cli.methods.losses import hard_dice, hard_iou, mask_loss, to_side
from amsam_cli.models.base import Decoded, Embedding, Memory, Prompts
from amsam_cli.models.sam2 import Sam2
from amsam_cli.pretrain.anatomy import smooth_noise
from amsam_cli.pretrain.parts import Part
from amsam_cli.pretrain.ridge import pixel_weights, ridge_scores, shares_of
from amsam_cli.pretrain.synthesis import TISSUES, Episodes

SMUDGED = 0.25
"""Share of support masks that are spoiled, so that memory learns to bear its own mistakes."""
GUESSED = 0.5
"""Share of steps in which a query brings a pseudo memory of its own."""
RIDGE_WEIGHT = 5.0
"""What a line's error counts beside memory's and prompts'. It was 1 up to version 5 of the built-in weights: the fewer
slices there are, the more of an answer is the line's."""


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
    told, guess = _tell_apart(embedding, episodes)
    bank = [model.remember(embedding.rows(index[:, k]), _smudge(masks[:, k], generator)) for k in range(shown)]
    queries = [embedding.rows(index[:, t]) for t in range(shown, frames)]
    truths = [masks[:, t] for t in range(shown, frames)]
    # What a guess of the query's own adds to memory is learned in half of the steps (PPG and SCMA of FSSAM).
    has_guess = float(torch.rand((), generator=generator)) < GUESSED and Part.GUESSES not in episodes.without
    guessed = guess if has_guess else None
    recalled = _track(model, queries, bank) if episodes.consecutive else _match(model, queries, bank, guessed)
    together = torch.cat(truths)
    prompted = model.decode(Embedding.cat(queries), prompts_from(together, generator))
    losses = [_loss(answer, truth) for answer, truth in zip(recalled, truths, strict=True)]
    name = "track" if episodes.consecutive else "match"
    dice = {
        name: mean_dice(torch.cat([a.logits for a in recalled]), together),
        "prompt": mean_dice(prompted.logits, together),
        "ridge": mean_dice(guess.flatten(0, 1) - 0.5, masks[:, shown:].flatten(0, 1)),
    }
    loss = torch.stack(losses).mean() + _loss(prompted, together)
    if Part.RIDGE not in episodes.without:
        loss = loss + RIDGE_WEIGHT * told
    return Answers(loss, dice)


def _tell_apart(embedding: Embedding, episodes: Episodes) -> tuple[Tensor, Tensor]:
    """Return how wrong a linear classifier fitted to the supports is on the queries, and its guess of the target.

    The loss is cross-entropy over all labels, rare ones weighing more; the guess (B, Q, 1, s, s) carries no gradients.
    """
    batch, _, _, size, _ = episodes.pixels.shape
    side, shown = size // 4, episodes.supports
    shares = shares_of(episodes.tissues, TISSUES, side)
    scores = ridge_scores(embedding, shares, shown)
    truth = shares[:, shown:]
    entropy = -(truth * scores.log_softmax(dim=-1)).sum(dim=-1)
    told = (entropy.flatten(1) * pixel_weights(truth.flatten(1, 2))).mean()
    inside = _share_inside(episodes)[:, None, None]
    guess = (scores.detach().softmax(dim=-1) * inside).sum(dim=-1)
    return told, guess.view(batch, -1, 1, side, side)


def _share_inside(episodes: Episodes) -> Tensor:
    """Return which labels the target is made of, (B, L) 0 or 1."""
    inside = torch.zeros(len(episodes.masks), TISSUES, device=episodes.masks.device)
    marked = torch.where(episodes.masks[:, :, 0] > 0, episodes.tissues.long(), 0).flatten(1)
    inside.scatter_(1, marked, 1.0)
    inside[:, 0] = 0.0
    return inside


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


def _match(model: Sam2, queries: list[Embedding], bank: list[Memory], guesses: Tensor | None) -> list[Decoded]:
    """Return each query decoded from the supports, all in one pass; with `guesses` (B, Q, 1, s, s) of it in memory."""
    count = len(queries)
    together = Embedding.cat(queries)
    memories = [Memory.cat([memory] * count) for memory in bank]
    bias = None
    if guesses is not None:
        soft = to_side(guesses.transpose(0, 1).flatten(0, 1), model.image_size)
        memories.append(model.remember(together, soft).own(distance=0))
        bias = calibrate
    answer = model.recall(together, memories, bias=bias)
    rows = len(queries[0])
    return [answer.rows(slice(start, start + rows)) for start in range(0, count * rows, rows)]


def _track(model: Sam2, queries: list[Embedding], bank: list[Memory]) -> list[Decoded]:
    """Return the queries decoded one after another, each remembering the network's masks of those before."""
    answers: list[Decoded] = []
    tracked: list[Memory] = []
    for query in queries:
        ages = range(len(tracked), 0, -1)
        memories = [*bank, *(memory.own(age=age) for memory, age in zip(tracked, ages, strict=True))]
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


def mean_dice(logits: Tensor, truth: Tensor) -> float:
    """Return the mean hard Dice over rows whose truth is not empty."""
    present = truth.flatten(1).amax(dim=1) > 0
    if not present.any():
        return float("nan")
    hard = to_side(logits.detach(), truth.shape[-1]) > 0
    return float(hard_dice(hard, truth > 0.5)[present].mean())
