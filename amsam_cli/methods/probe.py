"""A few-shot prior that is learned: a small classifier of the frozen features at every pixel.

AM-SAM takes its prompts from a detector that was tuned elsewhere, FSSAM from cosines to mean features. Four slices
cannot tune a detector, but their thousands of pixels can fit a linear probe (Alain and Bengio, 2016) of all feature
levels, the frame itself being the last, which tells tissues apart that a single mean does not. Convex, so that fit is
fast and needs no luck. What no plane through the features can part, a few hidden units add to it: they learn what the
line got wrong, from nothing, so that where there is nothing to add the line stays.
Letters: n frames, L labels, F feature columns, U hidden units, N pixels, s the side of the finest feature map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.models.base import Embedding

PIXELS = 24_000
"""Pixels a fit looks at, of all frames together."""
DECAY = 3e-3
"""Weight of the squared coefficients beside the mean cross-entropy; columns have unit spread."""
ITERATIONS = 40
UNITS = 64
STEPS, RATE, DROPOUT = 200, 1e-2, 0.3
PIXELS_A_STEP = 2048
AT_ONCE = 16 * 64**2
"""Pixels whose hidden units are held together: sixteen frames of the built-in model, one of SAM's."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A multinomial classifier of feature columns: a linear map, and hidden units beside it.

    Attributes:
        weight: (L + 1 + U, F), what makes the scores, background first, then what the hidden units see; columns are
            those of `features`, then of `detail`, then of the place.
        bias: (L + 1 + U,).
        bend: (L + 1, U), what each hidden unit adds to the scores.
    """

    weight: Tensor
    bias: Tensor
    bend: Tensor

    @torch.no_grad()
    def logits(self, embedding: Embedding) -> Tensor:
        """Return the log-odds (n, L, s, s) of each label against all else, at the finest level of `embedding`.

        A linear map and bilinear resampling can change places, so each level is weighed on its own grid.
        """
        each = max(1, AT_ONCE // _side(embedding) ** 2)
        starts = range(0, len(embedding), each)
        return torch.cat([self._logits(embedding.rows(slice(start, start + each))) for start in starts])

    def _logits(self, embedding: Embedding) -> Tensor:
        device = embedding.features.device
        weight, side = self.weight.to(device), _side(embedding)
        seen = self.bias.to(device)[None, :, None, None]
        start = 0
        for level in _levels(embedding):
            part = weight[:, start : start + level.shape[1]]
            seen = seen + _resize(torch.einsum("kf,nfhw->nkhw", part, level.float()), side)
            start += level.shape[1]
        classes = len(self.bend)
        bent = torch.einsum("ku,nuhw->nkhw", self.bend.to(device), seen[:, classes:].relu())
        return _log_odds(seen[:, :classes] + bent)

    def probability(self, embedding: Embedding) -> Tensor:
        """Return the probability (n, L, s, s) of each label at each pixel of the finest level."""
        return self.logits(embedding).sigmoid()


def fit_probe(embedding: Embedding, masks: Tensor, *, seed: int = 0, bends: bool = True) -> Probe:
    """Return the probe of frames with features `embedding` (n rows) and soft `masks` (n, L, S, S).

    It has hidden units if it `bends`, else none. Rare labels are drawn more often, by the square root of how rare they
    are; what no frame shows is never predicted.
    """
    shares = _shares(masks, _side(embedding))
    rows, pixels = _draw(shares, torch.Generator().manual_seed(seed))
    truth = shares.flatten(2)[rows, :, pixels]
    columns = _columns(embedding, rows, pixels)
    mean, spread = columns.mean(dim=0), columns.std(dim=0) + 1e-3
    columns = (columns - mean) / spread
    weight, bias = _minimise(columns, truth)
    bend = weight.new_empty(len(weight), 0)
    if bends:
        scores = columns @ weight.T + bias
        units, offset, bend = _bend(columns, truth, scores, torch.Generator().manual_seed(seed))
        weight, bias = torch.cat([weight, units]), torch.cat([bias, offset])
    weight = weight / spread
    return Probe(weight.cpu(), (bias - weight @ mean).cpu(), bend.cpu())


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


@torch.enable_grad()
def _bend(columns: Tensor, truth: Tensor, scores: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden units (U, F), their offsets (U,) and what they add (L + 1, U) to the scores (N, L + 1) of a line.

    Units are dropped by chance (Srivastava et al., 2014), so that none is relied on alone.
    """
    width, device = columns.shape[1], columns.device
    units = (torch.randn(UNITS, width, generator=generator) / width**0.5).to(device).requires_grad_()
    offset = (torch.rand(UNITS, generator=generator) - 0.5).to(device).requires_grad_()
    bend = torch.zeros(truth.shape[1], UNITS, device=device, requires_grad=True)
    solver = torch.optim.AdamW([units, offset, bend], lr=RATE, weight_decay=0.1)

    order = torch.randperm(len(columns), generator=generator).to(device)
    batches = zip(*(part[order].split(PIXELS_A_STEP) for part in (columns, truth, scores)), strict=True)
    for step, (seen, wanted, line) in enumerate(islice(cycle(batches), STEPS)):
        solver.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        kept = torch.empty(len(seen), UNITS).bernoulli_(1 - DROPOUT, generator=generator).to(device)
        hidden = (seen @ units.T + offset).relu() * kept / (1 - DROPOUT)
        loss = F.cross_entropy(line + hidden @ bend.T, wanted)
        solver.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        solver.step()
    return units.detach(), offset.detach(), bend.detach()


def _log_odds(scores: Tensor) -> Tensor:
    """Return the log-odds (n, L, s, s) of each label from the scores (n, L + 1, s, s) of all classes."""
    likely = scores.log_softmax(dim=1)[:, 1:]
    return likely - torch.log1p(-likely.exp().clamp(max=1 - 1e-6))
