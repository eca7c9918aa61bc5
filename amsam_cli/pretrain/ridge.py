"""A linear classifier of features that is solved in closed form, so that the features learn to be told apart by one.

What a few slices can fit to frozen features is linear (`methods/probe.py`). Here the same is done inside each episode:
a ridge regression fitted to the supports' pixels labels the queries', and its error teaches the encoder through the
solution (Bertinetto et al., Meta-learning with differentiable closed-form solvers, 2019). Every label of a frame takes
part, where memory asks for one. Letters: B episodes, T frames, L labels, F columns, N pixels of a frame.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.methods.probe import feature_columns
from amsam_cli.models.base import Embedding

DECAY = 0.02
"""Weight of the squared coefficients beside the mean squared error; columns have unit spread."""
SHARPNESS = 8.0
"""Turns regressed shares, about 0 to 1, into logits."""


def ridge_scores(embedding: Embedding, shares: Tensor, supports: int) -> Tensor:
    """Return the logits of every label at each pixel of the queries, (B, T - supports, N, L); they carry gradients.

    Args:
        embedding: B * T rows, frames of one episode together.
        shares: (B, T, N, L) the share of each pixel that each label covers, on the finest level of `embedding`.
        supports: how many frames of each episode are fitted; the others are the queries.
    """
    batch, frames, pixels, labels = shares.shape
    columns = feature_columns(embedding).reshape(batch, frames, pixels, -1)
    known = columns[:, :supports].flatten(1, 2)
    mean, spread = known.mean(dim=1, keepdim=True), known.std(dim=1, keepdim=True) + 1e-3
    truth = shares[:, :supports].flatten(1, 2)
    weight = pixel_weights(truth)
    with torch.autocast(known.device.type, enabled=False):
        solution = _solve((known - mean) / spread, truth, weight)
        asked = (columns[:, supports:].flatten(1, 2) - mean) / spread
        scores = F.pad(asked, (0, 1), value=1.0) @ solution
    return SHARPNESS * scores.view(batch, frames - supports, pixels, labels)


def pixel_weights(shares: Tensor) -> Tensor:
    """Return how much each pixel of `shares` (B, N, L) counts, (B, N), mean 1: rare labels more, by a square root."""
    rarity = shares.mean(dim=1, keepdim=True).clamp_min(1e-4).rsqrt()
    weight = (shares * rarity).sum(dim=2)
    return weight / weight.mean(dim=1, keepdim=True)


def shares_of(tissues: Tensor, labels: int, side: int) -> Tensor:
    """Return the share of each cell of a grid that each label covers, (B, T, side * side, labels), of (B, T, S, S)."""
    batch, frames, size, _ = tissues.shape
    cell = size // side
    cells = tissues.view(batch, frames, side, cell, side, cell).transpose(3, 4).flatten(4).flatten(2, 3)
    return torch.stack([(cells == label).float().mean(dim=-1) for label in range(labels)], dim=-1)


def _solve(columns: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Return the coefficients (B, F + 1, L) of columns (B, N, F), an offset last, that best give `truth` (B, N, L)."""
    columns = F.pad(columns, (0, 1), value=1.0)
    weighted = columns * (weight / weight.shape[1]).unsqueeze(2)
    gram = weighted.mT @ columns + DECAY * torch.eye(columns.shape[2], device=columns.device)
    # The matrix is symmetric and positive, so half of it is enough; and on processors of AMD, MKL's batched LU fails
    # as soon as it has two threads.
    return torch.cholesky_solve(weighted.mT @ truth, torch.linalg.cholesky(gram))
