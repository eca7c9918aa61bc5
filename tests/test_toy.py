"""The toy must be worth testing with: small, repeatable, and better after tuning."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.models.base import Prompts
from tests.toy import ToyModel, disc_frames


def dice(logits: Tensor, masks: Tensor) -> float:
    """Return the mean Dice of logits (B, 1, s, s) and masks (B, 1, S, S) on the coarser grid."""
    found, truth = (logits > 0).float(), (F.interpolate(masks, size=logits.shape[-2:], mode="area") > 0.5).float()
    return float((2 * (found * truth).sum((1, 2, 3)) / (found + truth).sum((1, 2, 3))).mean())


def test_toy_has_about_a_thousand_weights():
    assert sum(weight.numel() for weight in ToyModel().network.parameters()) < 2000


def test_toy_is_the_same_every_time():
    pixels, _ = disc_frames(1)

    first, second = (toy.decode(toy.encode(pixels), Prompts.empty(1)).logits for toy in (ToyModel(), ToyModel()))

    assert torch.equal(first, second)


def test_toy_finds_discs_after_tuning_on_four():
    toy = ToyModel()
    (pixels, masks), (new_pixels, new_masks) = disc_frames(4), disc_frames(4, seed=1)
    embedding, new, prompts = toy.encode(pixels), toy.encode(new_pixels), Prompts.empty(4)
    before = dice(toy.decode(new, prompts).logits, new_masks)
    decoder = toy.adaptable()["decoder"].requires_grad_(True)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)

    for _ in range(60):
        logits = toy.decode(embedding, prompts).logits
        loss = F.binary_cross_entropy_with_logits(logits, F.interpolate(masks, size=logits.shape[-2:], mode="area"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert before < 0.5
    assert dice(toy.decode(new, prompts).logits, new_masks) > 0.9


def test_toy_recalls_a_disc_untuned():
    toy = ToyModel()
    pixels, masks = disc_frames(1)
    embedding = toy.encode(pixels)

    recalled = toy.recall(embedding, [toy.remember(embedding, masks)]).logits

    assert dice(recalled, masks) > 0.5


def test_toy_recalls_nothing_from_empty_masks():
    toy = ToyModel()
    pixels, masks = disc_frames(1)
    embedding = toy.encode(pixels)

    recalled = toy.recall(embedding, [toy.remember(embedding, torch.zeros_like(masks))]).logits

    assert not (recalled > 0).any()
