from __future__ import annotations

import pytest
import torch

from amsam_cli.methods.blending import Blend
from amsam_cli.segmentation.fusion import fuse
from amsam_cli.segmentation.looks import Look

SURE, UNSURE = Blend(), Blend(prior=0.5, slice=0.0, support=0.5)


def look(logit: float, *, score: float = 1.0, presence: float = 1.0, weight: float = 1.0, side: int = 4) -> Look:
    """A look at one label on one slice that says the same everywhere."""
    one = torch.ones(1, 1)
    return Look(torch.full((1, 1, side, side), logit).half(), score * one, presence * one, weight * one)


def test_fuse_is_the_mean_of_equal_looks():
    fused = fuse({"slice": look(4.0), "support": look(2.0)}, [SURE])

    assert torch.allclose(fused.logits.float(), torch.tensor(3.0), atol=1e-2)


def test_fuse_weighs_by_predicted_iou():
    fused = fuse({"slice": look(4.0, score=0.75), "support": look(0.0, score=0.25)}, [SURE])

    assert torch.allclose(fused.logits.float(), torch.tensor(3.0), atol=1e-2)


def test_fuse_weighs_by_what_a_look_did_on_the_shots():
    fused = fuse({"slice": look(9.0), "support": look(1.0)}, [UNSURE])

    assert torch.allclose(fused.logits.float(), torch.tensor(1.0), atol=2e-2)


def test_fuse_leaves_out_looks_that_did_not_reach_a_slice():
    fused = fuse({"support": look(3.0), "forward": look(-10.0, score=0.0, weight=0.0)}, [SURE])

    assert torch.allclose(fused.logits.float(), torch.tensor(3.0), atol=1e-2)
    assert fused.agreement.item() == 0


def test_fuse_empties_a_slice_where_the_label_is_held_absent():
    fused = fuse({"slice": look(3.0, presence=0.1), "support": look(3.0, presence=0.4)}, [SURE])

    assert (fused.logits == -10).all()


def test_fuse_does_not_take_one_look_s_word_for_absence():
    fused = fuse({"slice": look(3.0, presence=0.9), "support": look(3.0, presence=0.0)}, [SURE])

    assert torch.allclose(fused.logits.float(), torch.tensor(3.0), atol=1e-2)
    assert fused.presence.item() < 0.5


def test_fuse_joins_looks_of_different_resolution():
    fused = fuse({"slice": look(4.0, side=8), "support": look(2.0)}, [SURE])

    assert fused.logits.shape[-1] == 8


def test_agreement_is_the_mean_dice_of_pairs():
    half = look(-10.0)
    half.logits[:, :, :2] = 10
    fused = fuse({"slice": look(10.0), "support": look(10.0), "forward": half}, [SURE])

    # Dice 1 of the first two; 2 * 8 / (16 + 8) = 2/3 of each with the half.
    assert fused.agreement.item() == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_level_is_taken_off_where_every_kind_of_look_took_part():
    looks = {"prior": look(1.0), "slice": look(1.0), "support": look(1.0)}

    lifted = fuse(looks, [Blend(level=-2.0)])
    partial = fuse({"slice": look(1.0)}, [Blend(level=-2.0)])

    assert torch.allclose(lifted.logits.float(), torch.tensor(3.0), atol=1e-2)
    assert torch.allclose(partial.logits.float(), torch.tensor(1.0), atol=1e-2)
