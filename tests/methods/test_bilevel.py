from __future__ import annotations

from random import Random

import pytest
import torch
from torch import Tensor, nn

from amsam_cli.methods.bilevel import Bilevel, Level, Order, _apply, poly, split

ONE = frozenset({1})


class Quadratic:
    """L(w, a; b) = ½ wᵀQw + wᵀMa + ½|a|² + b·w + c·a: all derivatives are known."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        self.q = root @ root.T + torch.eye(3, dtype=torch.float64)
        self.m = torch.randn(3, 2, generator=generator, dtype=torch.float64)
        self.w = nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64))
        self.a = nn.Parameter(torch.randn(2, generator=generator, dtype=torch.float64))

    def loss(self, batch: float) -> Tensor:
        quadratic = 0.5 * self.w @ self.q @ self.w + self.w @ self.m @ self.a + 0.5 * self.a @ self.a
        return quadratic + batch * (self.w.sum() + self.a.sum())

    def trainer(self, order: Order, **settings: float) -> Bilevel[float]:
        return Bilevel(Level([self.w], 0.05, 0.1), Level([self.a], 0.05), self.loss, order=order)


@pytest.mark.parametrize("order", ["first", "unrolled"])
def test_upper_step_leaves_the_weights_bit_for_bit(order: Order):
    toy = Quadratic()
    trainer = toy.trainer(order)
    trainer.step(1.0, 2.0)
    before_w, before_a = toy.w.detach().clone(), toy.a.detach().clone()

    trainer._ascend(1.0, 2.0)

    assert torch.equal(toy.w, before_w)
    assert not torch.equal(toy.a, before_a)


def test_lower_step_leaves_the_prompts_bit_for_bit():
    toy = Quadratic()
    trainer = toy.trainer("first")
    before_w, before_a = toy.w.detach().clone(), toy.a.detach().clone()

    trainer._descend(1.0, both=False)

    assert torch.equal(toy.a, before_a)
    assert not torch.equal(toy.w, before_w)


def test_off_moves_both_on_one_batch():
    toy = Quadratic()
    before_w, before_a = toy.w.detach().clone(), toy.a.detach().clone()

    toy.trainer("off").step(1.0)

    assert not torch.equal(toy.w, before_w)
    assert not torch.equal(toy.a, before_a)


def test_finite_difference_agrees_with_the_exact_hessian_vector_product():
    toy = Quadratic()
    direction = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)

    (found,) = toy.trainer("unrolled")._hessian_vector(1.0, [toy.w.detach().clone()], [direction])

    # d2L/dA dW is the transpose of M, whatever W and A are.
    assert torch.allclose(found, toy.m.T @ direction, atol=1e-8)


def test_unrolled_gradient_agrees_with_autograd_through_the_virtual_step():
    toy = Quadratic()
    trainer = toy.trainer("unrolled")
    trainer.step(1.0, 2.0)
    rate = trainer._lower.param_groups[0]["lr"]
    state = trainer._lower.state[toy.w]

    (found,) = trainer._unrolled(1.0, 2.0)

    # By hand: w' = AdamW's next w; dL2/da - rate * M' v, where v = dL2/dw at w' (the paper lets AdamW's scale be 1).
    gradient = toy.q @ toy.w + toy.m @ toy.a + 1.0
    time = int(state["step"]) + 1
    mean = (0.9 * state["exp_avg"] + 0.1 * gradient) / (1 - 0.9**time)
    square = (0.999 * state["exp_avg_sq"] + 0.001 * gradient**2) / (1 - 0.999**time)
    moved = toy.w * (1 - rate * 0.1) - rate * mean / (square.sqrt() + 1e-8)
    outer = toy.q @ moved + toy.m @ toy.a + 2.0
    direct = toy.m.T @ moved + toy.a + 2.0
    assert torch.allclose(found, direct - rate * (toy.m.T @ outer), atol=1e-7)


def test_each_level_decays_from_its_own_rate():
    toy = Quadratic()
    trainer = Bilevel(Level([toy.w], 0.1), Level([toy.a], 0.002), toy.loss)

    trainer.step(1.0, 2.0, progress=0.5)

    assert trainer._lower.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**0.9)
    assert trainer._upper.param_groups[0]["lr"] == pytest.approx(0.002 * 0.5**0.9)


def test_clip_bounds_the_gradient_of_the_weights():
    w, a = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([1.0]))
    trainer = Bilevel(Level([w], 0.1), Level([a], 0.1), lambda batch: batch * (w * w).sum() + a.sum(), clip=0.5)

    trainer.step(100.0, 1.0)

    assert trainer._lower.state[w]["exp_avg"].abs().max() <= 0.1 * 0.5 + 1e-6


def test_poly_ends_near_zero():
    assert poly(0.999) < 0.01


def test_split_puts_patients_on_one_side_each():
    first, second = split(["a", "b", "b", "c"], [ONE] * 4)

    assert sorted(first + second) == [0, 1, 2, 3]
    patients = [{["a", "b", "b", "c"][index] for index in half} for half in (first, second)]
    assert not patients[0] & patients[1]


def test_split_drawn_by_chance_gives_every_patient_to_either_half_in_time():
    chance = Random(0)

    drawn = [split(["a", "b", "b", "c"], [ONE] * 4, chance) for _ in range(20)]

    for first, second in drawn:
        assert sorted(first + second) == [0, 1, 2, 3]
        assert (1 in first) == (2 in first)
    assert all(any(index in half[side] for half in drawn) for index in range(4) for side in (0, 1))


def test_split_swaps_so_that_both_halves_show_every_label():
    shown = [frozenset({1}), frozenset({1}), frozenset({2}), frozenset({2})]

    first, second = split(["a", "b", "c", "d"], shown)

    for half in (first, second):
        assert frozenset().union(*(shown[index] for index in half)) == {1, 2}


def test_split_gives_one_shot_to_both_halves():
    assert split(["a"], [ONE]) == ([0], [0])


def test_split_of_two_shots_of_one_patient_separates_them():
    assert split(["a", "a"], [ONE, ONE]) == ([0], [1])


def test_optimiser_reads_gradients_of_any_memory_layout():
    gradient = torch.arange(6.0).view(3, 2).t()
    plain, turned = (nn.Parameter(torch.ones(2, 3)) for _ in range(2))

    for parameter, given in ((plain, gradient.contiguous()), (turned, gradient)):
        optimiser = Level([parameter], rate=0.1).optimiser()
        _apply(optimiser, [parameter], [given])
        _apply(optimiser, [parameter], [given.square()])

    assert torch.equal(plain, turned)
