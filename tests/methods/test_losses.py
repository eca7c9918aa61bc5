from __future__ import annotations

import torch

from amsam_cli.methods.losses import hard_dice, hard_iou, mask_loss, soft_dice, to_side
from amsam_cli.models.base import Decoded


def answer(logits: torch.Tensor, presence: float = 0.0) -> Decoded:
    rows = len(logits)
    return Decoded(logits, torch.zeros(rows), torch.full((rows,), float(presence)))


def test_hard_dice_and_iou_of_half_overlap():
    first = torch.tensor([[True, True, False, False]])
    second = torch.tensor([[False, True, True, False]])

    assert hard_dice(first, second).tolist() == [0.5]
    assert abs(float(hard_iou(first, second)) - 1 / 3) < 1e-6


def test_hard_dice_of_two_empty_masks_is_one():
    nothing = torch.zeros(1, 4, dtype=torch.bool)

    assert hard_dice(nothing, nothing).tolist() == [1.0]


def test_soft_dice_of_a_perfect_mask_is_one():
    truth = torch.ones(1, 1, 4, 4)

    assert float(soft_dice(truth, truth)) == 1.0


def test_mask_loss_falls_as_the_mask_gets_better():
    truth = torch.zeros(1, 1, 8, 8)
    truth[..., 2:6, 2:6] = 1
    right = answer(20 * truth - 10, presence=5)
    wrong = answer(10 - 20 * truth, presence=5)

    assert mask_loss(right, truth) < 0.02
    assert mask_loss(wrong, truth) > 1


def test_mask_loss_of_an_empty_truth_has_gradients_for_logits_and_presence():
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    presence = torch.zeros(1, requires_grad=True)

    mask_loss(Decoded(logits, torch.zeros(1), presence), torch.zeros(1, 1, 8, 8)).backward()

    assert logits.grad is not None
    assert (logits.grad > 0).all()
    assert presence.grad is not None
    assert presence.grad > 0


def test_to_side_keeps_a_constant_map_constant():
    assert torch.equal(to_side(torch.full((1, 1, 4, 4), 3.0), 16), torch.full((1, 1, 16, 16), 3.0))
