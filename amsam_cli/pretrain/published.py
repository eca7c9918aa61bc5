"""FSSAM's own training: memory attention, memory encoder and mask decoder on episodes of base classes.

FSSAM (ICML 2025), section "Experiments": image and prompt encoder stay as they are, each query is decoded from its
supports and the refined memory of its own prior, under calibrated attention, and scored by soft Dice. The mask is that
of token 0, as everywhere in amsam, where the authors take the best of three.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amsam_cli.methods.calibrated_attention import calibrate
from amsam_cli.methods.losses import to_side
from amsam_cli.methods.pseudo_prompt import priors, prototypes, similarities
from amsam_cli.methods.refinement import refine
from amsam_cli.models.base import Embedding, Memory
from amsam_cli.models.sam2 import Sam2
from amsam_cli.pretrain.objectives import Answers, mean_dice
from amsam_cli.pretrain.synthesis import Episodes

LEARNING = ("memory_attention.", "memory_encoder.", "sam_mask_decoder.")
"""The parts that learn; the rest, position codes and pointer projection among it, is frozen."""


def ask_published(model: Sam2, episodes: Episodes, generator: torch.Generator) -> Answers:
    """Return how well the queries of a batch of episodes are found; the loss carries gradients."""
    batch, frames = episodes.pixels.shape[:2]
    embedding = model.encode(episodes.pixels.flatten(0, 1))
    index = torch.arange(batch * frames, device=episodes.pixels.device).view(batch, frames)
    shown = range(episodes.supports)
    bank = [model.remember(embedding.rows(index[:, k]), episodes.masks[:, k]) for k in shown]
    known = [embedding.rows(index[:, k]).features for k in shown]
    logits = []
    for number in range(episodes.supports, frames):
        query = embedding.rows(index[:, number])
        own = _own_memory(model, query, bank, _priors(query, known, episodes.masks))
        answer = model.recall(query, [*bank, own], bias=calibrate)
        logits.append(to_side(answer.logits, model.image_size))
    found, truth = torch.cat(logits), episodes.masks[:, episodes.supports :].transpose(0, 1).flatten(0, 1)
    return Answers(published_loss(found, truth), {"match": mean_dice(found, truth)})


def published_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean over rows (B, 1, S, S) of 1 - 2 sum(p y) / (sum(p^2) + sum(y^2))."""
    likely, truth = logits.sigmoid().flatten(1), truth.flatten(1)
    both = (likely * truth).sum(dim=1)
    return (1 - 2 * both / (likely.square().sum(dim=1) + truth.square().sum(dim=1)).clamp_min(1e-5)).mean()


def _priors(query: Embedding, supports: list[Tensor], masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return P_F and P_D of each query, (B, 1, h, w) each, each scaled over its own picture (PPG)."""
    complete, clean = [], []
    for row in range(len(query)):
        features = torch.stack([each[row] for each in supports])
        known = prototypes(features, masks[row, : len(supports)])
        found = priors(*similarities(query.features[row : row + 1], known))
        complete.append(found.foreground)
        clean.append(found.discriminative)
    return torch.cat(complete), torch.cat(clean)


def _own_memory(model: Sam2, query: Embedding, bank: list[Memory], both: tuple[Tensor, Tensor]) -> Memory:
    """Return the memory of the query's own prior, refined by what the supports hold (IMR)."""
    complete, clean = (model.remember(query, to_side(part, model.image_size)) for part in both)
    return refine(complete, clean, bank).own(distance=0)
