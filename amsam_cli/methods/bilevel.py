"""Bi-level optimisation: weights learn from one half of the shots, prompts from how well that serves the other half.

BLO-SAM (Zhang et al., ICML 2024) and AM-SAM: the lower level W (LoRA, calibration) is trained on D1, the upper level A
(learned prompts) on D2, in turn; D2 keeps the few images of D1 from being learned by heart. Knows no model: only
parameters, and a loss that reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

Order = Literal["first", "unrolled", "off"]
Batch = TypeVar("Batch")
Schedule = Callable[[float], float]
"""Share of the learning rate at a share of the steps in [0, 1)."""

HVP_STEP = 0.01
"""Length of the finite difference, over the norm of its direction (DARTS; BLO-SAM)."""
BETAS, EPSILON = (0.9, 0.999), 1e-8


def poly(progress: float) -> float:
    """Return the decay of BLO-SAM's rates: (1 - t/T)^0.9.

    >>> poly(0.0), round(poly(0.5), 3)
    (1.0, 0.536)
    """
    return float((1 - progress) ** 0.9)


@dataclass(frozen=True, slots=True)
class Level:
    """One level: its parameters with the rate and decay of their AdamW."""

    parameters: Sequence[nn.Parameter]
    rate: float
    decay: float = 0.0

    def optimiser(self) -> torch.optim.AdamW:
        """Return a fresh AdamW. It is fused, so it wants gradients that lie in memory as their weights do."""
        return torch.optim.AdamW(
            list(self.parameters), lr=self.rate, weight_decay=self.decay, betas=BETAS, eps=EPSILON, fused=True
        )


class Bilevel(Generic[Batch]):
    """Trains both levels in turn.

    Args:
        lower: W.
        upper: A.
        loss: of a batch, at the present values of W and A; the same function for both levels.
        order: "first" takes dL/dA at the new W; "unrolled" also follows how A moved W; "off" trains both levels on
            every batch together.
        schedule: how both rates fall, each level's from its own.
        clip: largest norm of the gradient of W; None leaves it alone.
    """

    def __init__(
        self,
        lower: Level,
        upper: Level,
        loss: Callable[[Batch], Tensor],
        *,
        order: Order = "first",
        schedule: Schedule = poly,
        clip: float | None = None,
    ) -> None:
        self.lower, self.upper, self.loss, self.order = lower, upper, loss, order
        self._schedule = schedule
        self._clip = clip
        self._lower = lower.optimiser()
        self._upper = upper.optimiser()

    def step(self, first: Batch, second: Batch | None = None, *, progress: float = 0.0) -> float:
        """Take one step of each level and return the lower level's loss.

        Args:
            first: of D1; of all shots where the order is "off".
            second: of D2; None where the order is "off".
            progress: share of the steps taken.
        """
        share = self._schedule(progress)
        for optimiser, level in ((self._lower, self.lower), (self._upper, self.upper)):
            for group in optimiser.param_groups:
                group["lr"] = level.rate * share
        if self.order == "off":
            return self._descend(first, both=True)
        assert second is not None
        loss = self._descend(first, both=False)
        self._ascend(first, second)
        return loss

    def _descend(self, batch: Batch, *, both: bool) -> float:
        """Take a step of W, and of A with it where `both`."""
        wanted = [*self.lower.parameters, *(self.upper.parameters if both else [])]
        loss = self.loss(batch)
        gradients = _gradients(loss, wanted)
        count = len(self.lower.parameters)
        if self._clip is not None:
            _shorten(gradients[:count], self._clip)
        _apply(self._lower, self.lower.parameters, gradients[:count])
        if both:
            _apply(self._upper, self.upper.parameters, gradients[count:])
        return float(loss.detach())

    def _ascend(self, first: Batch, second: Batch) -> None:
        """Take a step of A; W is the same afterwards, bit by bit."""
        gradients = (
            _gradients(self.loss(second), self.upper.parameters)
            if self.order == "first"
            else self._unrolled(first, second)
        )
        _apply(self._upper, self.upper.parameters, gradients)

    def _unrolled(self, first: Batch, second: Batch) -> list[Tensor]:
        """Return dA of L2(w(A), A) for a virtual step w of W, the second term by finite differences (DARTS, eq. 8)."""
        weights, prompts = self.lower.parameters, self.upper.parameters
        rate = float(self._lower.param_groups[0]["lr"])
        kept = [weight.detach().clone() for weight in weights]
        try:
            inner = _gradients(self.loss(first), weights)
            _assign(weights, self._virtual(inner, rate))
            outer = _gradients(self.loss(second), [*weights, *prompts])
            direction, direct = outer[: len(weights)], outer[len(weights) :]
            second_order = self._hessian_vector(first, kept, direction)
        finally:
            _assign(weights, kept)
        return [d - rate * h for d, h in zip(direct, second_order, strict=True)]

    def _virtual(self, gradients: Sequence[Tensor], rate: float) -> list[Tensor]:
        """Return W after the AdamW step it would take next, its moments and bias corrections being those of now."""
        moved = []
        for weight, gradient in zip(self.lower.parameters, gradients, strict=True):
            state = self._lower.state[weight]
            time = int(state["step"]) + 1 if state else 1
            first = state["exp_avg"] if state else torch.zeros_like(gradient)
            second = state["exp_avg_sq"] if state else torch.zeros_like(gradient)
            mean = (BETAS[0] * first + (1 - BETAS[0]) * gradient) / (1 - BETAS[0] ** time)
            square = (BETAS[1] * second + (1 - BETAS[1]) * gradient.square()) / (1 - BETAS[1] ** time)
            decayed = weight.detach() * (1 - rate * self.lower.decay)
            moved.append(decayed - rate * mean / (square.sqrt() + EPSILON))
        return moved

    def _hessian_vector(self, batch: Batch, at: Sequence[Tensor], direction: Sequence[Tensor]) -> list[Tensor]:
        """Return d2L/dA dW times `direction` at W = `at`, from two gradients a small way to either side."""
        length = torch.stack([part.square().sum() for part in direction]).sum().sqrt()
        epsilon = HVP_STEP / float(length.clamp_min(1e-12))
        sides = []
        for sign in (1.0, -1.0):
            shifted = [w + sign * epsilon * d for w, d in zip(at, direction, strict=True)]
            _assign(self.lower.parameters, shifted)
            sides.append(_gradients(self.loss(batch), self.upper.parameters))
        return [(ahead - behind) / (2 * epsilon) for ahead, behind in zip(*sides, strict=True)]


def split(
    patients: Sequence[str], shown: Sequence[frozenset[int]], chance: Random | None = None
) -> tuple[list[int], list[int]]:
    """Return which shots are D1 and which are D2: about half and half, by patient where there are two or more.

    Args:
        patients: whose each shot is, in the order of their slices.
        shown: the labels each shot shows. A label that one half lacks is brought there by a swap where one helps.
        chance: draws the halves; without it the first patients are D1.

    One shot is both halves: its D1 and D2 differ by augmentation alone.

    >>> labels = [frozenset({1})] * 4
    >>> split(["a", "a", "b", "b"], labels)
    ([0, 1], [2, 3])
    >>> split(["a"] * 4, labels)
    ([0, 2], [1, 3])
    """
    if len(patients) == 1:
        return [0], [0]
    names = list(dict.fromkeys(patients))
    groups = [[index for index, patient in enumerate(patients) if patient == name] for name in names]
    if len(groups) == 1:
        groups = [[index] for index in groups[0]]
        groups = groups[::2] + groups[1::2]
    if chance:
        chance.shuffle(groups)
    return _covering(_halves(groups), shown)


def _halves(groups: Sequence[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the groups in two halves that hold about as many shots."""
    total = sum(len(group) for group in groups)
    first: list[list[int]] = []
    for group in groups[:-1]:
        if first and 2 * (sum(map(len, first)) + len(group)) > total:
            break
        first.append(group)
    return first, list(groups[len(first) :])


def _covering(
    halves: tuple[list[list[int]], list[list[int]]], shown: Sequence[frozenset[int]]
) -> tuple[list[int], list[int]]:
    """Return the halves after the one swap of groups, if any, that brings most labels to both."""

    def both(one: list[list[int]], other: list[list[int]]) -> int:
        seen = [frozenset().union(*(shown[index] for group in half for index in group)) for half in (one, other)]
        return len(seen[0] & seen[1])

    best, most = halves, both(*halves)
    for i in range(len(halves[0])):
        for j in range(len(halves[1])):
            one, other = list(halves[0]), list(halves[1])
            one[i], other[j] = other[j], one[i]
            if both(one, other) > most:
                best, most = (one, other), both(one, other)
    first, second = (sorted(index for group in half for index in group) for half in best)
    return first, second


def _gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the gradient of each parameter, zero where the loss does not read it; no `.grad` is touched."""
    found = torch.autograd.grad(loss, list(parameters), allow_unused=True, materialize_grads=True)
    return list(found)


def _shorten(gradients: Sequence[Tensor], most: float) -> None:
    """Scale the gradients in place so that their common norm is at most `most`."""
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)


def _apply(optimiser: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    """Take an optimiser's step along given gradients.

    The fused AdamW of torch 2.14 misreads on the processor, silently, those whose layout is not their weights' own.
    """
    for parameter, gradient in zip(parameters, gradients, strict=True):
        is_alike = gradient.stride() == parameter.stride()
        parameter.grad = gradient if is_alike else torch.empty_like(parameter).copy_(gradient)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


@torch.no_grad()
def _assign(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
