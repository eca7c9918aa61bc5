from __future__ import annotations

import pytest
import torch

from amsam_cli.methods.refinement import refine
from amsam_cli.models.base import Memory


def memory(*, object_at: slice, mask_at: slice, noise: float = 0.0, seed: int = 0) -> Memory:
    """A memory of an 8 x 8 grid whose object points along the first of four channels, and all else along the second."""
    generator = torch.Generator().manual_seed(seed)
    content = noise * torch.randn(1, 4, 8, 8, generator=generator)
    content[:, 1] += 1
    content[:, 0, object_at, object_at] += 1
    content[:, 1, object_at, object_at] -= 1
    mask = torch.zeros(1, 1, 8, 8)
    mask[:, :, mask_at, mask_at] = 1
    return Memory(content, torch.zeros(1, 4), mask)


WHOLE, CORE = slice(2, 6), slice(3, 5)


def test_refine_fills_the_holes_of_the_clean_mask():
    support = memory(object_at=WHOLE, mask_at=WHOLE)
    complete, clean = memory(object_at=WHOLE, mask_at=WHOLE), memory(object_at=WHOLE, mask_at=CORE)

    refined = refine(complete, clean, [support])

    assert torch.equal(refined.mask > 0.5, complete.mask > 0.5)


def test_refine_leaves_out_what_the_supports_do_not_know():
    support = memory(object_at=WHOLE, mask_at=WHOLE)
    complete = memory(object_at=WHOLE, mask_at=slice(0, 8))  # a foreground prior that is everywhere

    refined = refine(complete, memory(object_at=WHOLE, mask_at=CORE), [support])

    assert torch.equal(refined.mask[0, 0] > 0.5, support.mask[0, 0] > 0.5)


@pytest.mark.parametrize("rounds", [1, 3, 10])
def test_refine_stays_between_both_memories(rounds: int):
    supports = [memory(object_at=WHOLE, mask_at=WHOLE, noise=0.3, seed=seed) for seed in (1, 2)]
    complete = memory(object_at=WHOLE, mask_at=WHOLE, noise=0.3, seed=3)
    clean = memory(object_at=CORE, mask_at=CORE, noise=0.3, seed=4)

    refined = refine(complete, clean, supports, rounds=rounds)

    low, high = torch.minimum(complete.map, clean.map), torch.maximum(complete.map, clean.map)
    assert ((refined.map >= low - 1e-5) & (refined.map <= high + 1e-5)).all()
    assert refined.mask.min() >= 0
    assert refined.mask.max() <= 1


def test_refine_of_no_rounds_changes_nothing():
    clean = memory(object_at=CORE, mask_at=CORE)

    refined = refine(memory(object_at=WHOLE, mask_at=WHOLE), clean, [clean], rounds=0)

    assert torch.equal(refined.map, clean.map)
    assert torch.equal(refined.mask, clean.mask)


def test_refine_without_supports_changes_nothing():
    clean = memory(object_at=CORE, mask_at=CORE)

    assert refine(memory(object_at=WHOLE, mask_at=WHOLE), clean, []) is clean


def test_refine_does_not_care_for_the_order_of_supports():
    supports = [memory(object_at=WHOLE, mask_at=WHOLE, noise=0.5, seed=seed) for seed in range(3)]
    complete, clean = memory(object_at=WHOLE, mask_at=WHOLE, noise=0.2), memory(object_at=CORE, mask_at=CORE)

    forward, backward = refine(complete, clean, supports), refine(complete, clean, supports[::-1])

    torch.testing.assert_close(forward.map, backward.map)


def test_refine_by_hand():
    complete = Memory(torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]), torch.zeros(1, 2), torch.tensor([[[[1.0, 0.5]]]]))
    clean = Memory(torch.tensor([[[[0.5, 0.0]], [[0.0, 0.5]]]]), torch.zeros(1, 2), torch.tensor([[[[1.0, 0.0]]]]))
    support = Memory(complete.map, complete.pointer, clean.mask)

    refined = refine(complete, clean, [support], rounds=1)

    # Likeness to support and to clean memory is 1 at the left place and 0 at the right: omega = (1, 0).
    torch.testing.assert_close(refined.map, torch.tensor([[[[1.0, 0.0]], [[0.0, 0.5]]]]))
    torch.testing.assert_close(refined.mask, torch.tensor([[[[1.0, 0.0]]]]))
