from __future__ import annotations

import torch
from torch import Tensor

from amsam_cli.adaptation.augmentation import Strength, augment

STILL = Strength(turn=0, stretch=0, move=0, bend=0, closer=0)


def square_frames(count: int, *, side: int = 64) -> tuple[Tensor, Tensor]:
    """Return frames (B, 3, S, S) of a bright square and its masks (B, 1, S, S)."""
    masks = torch.zeros(count, 1, side, side)
    masks[:, :, 20:44, 20:44] = 1
    return masks.expand(-1, 3, -1, -1).clone(), masks


def views(seed: int, count: int = 8, *, side: int = 64, strength: Strength | None = None) -> tuple[Tensor, Tensor]:
    return augment(*square_frames(count), torch.Generator().manual_seed(seed), side=side, strength=strength)


def test_views_are_the_same_for_the_same_seed():
    first, second, other = views(3), views(3), views(4)

    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_mask_moves_with_the_picture():
    pixels, masks = views(0)

    for picture, mask in zip(pixels, masks, strict=True):
        if (mask > 0.9).any():
            assert picture[0][mask[0] > 0.9].mean() > picture[0][mask[0] < 0.1].mean() + 0.2


def test_views_stay_between_black_and_white():
    pixels, masks = views(1)

    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert 0 <= masks.min() <= masks.max() <= 1


def test_views_come_at_the_side_asked_for():
    pixels, masks = views(0, side=32)

    assert pixels.shape == (8, 3, 32, 32)
    assert masks.shape == (8, 1, 32, 32)


def test_views_differ_within_a_batch():
    pixels, _ = views(0)

    assert not any(torch.equal(pixels[0], other) for other in pixels[1:])


def test_without_movement_the_mask_stays_where_it_was():
    _, masks = views(0, strength=STILL)

    # The bend is off, but each row is still sheared and stretched a little; the middle stays inside.
    assert (masks[:, :, 30:34, 30:34] > 0.9).all()


def test_closer_views_show_the_labels_larger():
    _, far = views(0, 64, strength=STILL)
    _, near = views(0, 64, strength=Strength(turn=0, stretch=0, move=0, bend=0, closer=1))

    assert (near > 0.5).float().mean() > 1.5 * (far > 0.5).float().mean()
