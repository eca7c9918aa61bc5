"""A few-shot prior that is learned: a linear classifier of the frozen features at every pixel.

AM-SAM takes its prompts from a detector that was tuned elsewhere, FSSAM from cosines to mean features. Four slices
cannot tune a detector, but their thousands of pixels can fit a linear probe (Alain and Bengio, 2016) of all feature
levels, the frame itself being the last, which tells tissues apart that a single mean does not. Convex, so a fit is
fast and needs no luck.
Letters: n frames, L labels, F feature columns, N pixels, s the side of the finest feature map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.models.base import Embedding

PIXELS = 24_000
"""Pixels a fit looks at, of all frames together."""
DECAY = 3e-3
"""Weight of the squared coefficients beside the mean cross-entropy; columns have unit spread."""
ITERATIONS = 40


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A multinomial logistic classifier of feature columns.

    Attributes:
        weight: (L + 1, F), background first; columns are those of `features`, then of `detail`, then of the place.
        bias: (L + 1,).
    """

    weight: Tensor
    bias: Tensor

    @torch.no_grad()
    def logits(self, embedding: Embedding) -> Tensor:
        """Return the log-odds (n, L, s, s) of each label against all else, at the finest level of `embedding`.

        A linear map and bilinear resampling can change places, so each level is weighed on its own grid.
        """
        device = embedding.features.device
        weight, side = self.weight.to(device), _side(embedding)
        scores = self.bias.to(device)[None, :, None, None]
        start = 0
        for level in _levels(embedding):
            part = weight[:, start : start + level.shape[1]]
            scores = scores + _resize(torch.einsum("kf,nfhw->nkhw", part, level.float()), side)
            start += level.shape[1]
        return _log_odds(scores)

    def probability(self, embedding: Embedding) -> Tensor:
        """Return the probability (n, L, s, s) of each label at each pixel of the finest level."""
        return self.logits(embedding).sigmoid()


def fit_probe(embedding: Embedding, masks: Tensor, *, seed: int = 0) -> Probe:
    """Return the probe of frames with features `embedding` (n rows) and soft `masks` (n, L, S, S).

    Rare labels are drawn more often, by the square root of how rare they are; what no frame shows is never predicted.
    """
    shares = _shares(masks, _side(embedding))
    rows, pixels = _draw(shares, torch.Generator().manual_seed(seed))
    truth = shares.flatten(2)[rows, :, pixels]
    columns = _columns(embedding, rows, pixels)
    mean, spread = columns.mean(dim=0), columns.std(dim=0) + 1e-3
    weight, bias = _minimise((columns - mean) / spread, truth)
    weight = weight / spread
    return Probe(weight.cpu(), (bias - weight @ mean).cpu())


def feature_columns(embedding: Embedding) -> Tensor:
    """Return every feature level and the place at each pixel of the finest level, (n, N, F)."""
    side = _side(embedding)
    levels = [_resize(level.float(), side) for level in _levels(embedding)]
    return torch.cat(levels, dim=1).flatten(2).transpose(1, 2)


def _side(embedding: Embedding) -> int:
    """Return the side of the finest level."""
    return max(int(level.shape[-1]) for level in embedding.levels)


def _levels(embedding: Embedding) -> Iterator[Tensor]:
    """Yield the levels (n, C, h, w) in the order of the columns; the place comes last."""
    yield from embedding.levels
    line = torch.linspace(-1, 1, _side(embedding), device=embedding.features.device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    yield torch.stack([x, y, x * y, x.square(), y.square()])[None].expand(len(embedding), -1, -1, -1)


def _columns(embedding: Embedding, rows: Tensor, pixels: Tensor) -> Tensor:
    """Return the columns (N, F) of some pixels, counted row by row through the finest level; one frame at a time."""
    each = ((row, embedding.rows(slice(row, row + 1))) for row in range(len(embedding)))
    return torch.cat([feature_columns(frame)[0, pixels[rows == row]] for row, frame in each])


def _resize(level: Tensor, side: int) -> Tensor:
    if level.shape[-1] == side:
        return level
    return F.interpolate(level, size=(side, side), mode="bilinear", align_corners=False)


def _shares(masks: Tensor, side: int) -> Tensor:
    """Return the share of each pixel that background and each label cover, (n, L + 1, side, side)."""
    small = F.interpolate(masks.float(), size=(side, side), mode="area")
    covered = small.sum(dim=1, keepdim=True)
    small = small / covered.clamp_min(1)
    return torch.cat([(1 - covered).clamp(0, 1), small], dim=1)


def _draw(shares: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return frame and pixel (N,) of each example, sorted by frame, equally many of every frame."""
    rarity = shares.mean(dim=(0, 2, 3)).clamp_min(1e-6).rsqrt()
    worth = torch.einsum("nkhw,k->nhw", shares, rarity).flatten(1).cpu()
    each = min(max(1, PIXELS // len(worth)), worth.shape[1])
    pixels = torch.multinomial(worth, each, generator=generator)
    rows = torch.arange(len(worth)).repeat_interleave(each)
    return rows.to(shares.device), pixels.flatten().to(shares.device)


@torch.enable_grad()
def _minimise(columns: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coefficients (L + 1, F) and offsets (L + 1,) of least decayed cross-entropy."""
    weight = torch.zeros(truth.shape[1], columns.shape[1], device=columns.device, requires_grad=True)
    bias = torch.zeros(truth.shape[1], device=columns.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        entropy = F.cross_entropy(columns @ weight.T + bias, truth)
        total = entropy + DECAY * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    solver.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _log_odds(scores: Tensor) -> Tensor:
    """Return the log-odds (n, L, s, s) of each label from the scores (n, L + 1, s, s) of all classes."""
    likely = scores.log_softmax(dim=1)[:, 1:]
    return likely - torch.log1p(-likely.exp().clamp(max=1 - 1e-6))
