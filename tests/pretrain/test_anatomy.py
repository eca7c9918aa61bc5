from __future__ import annotations

import torch

from amsam_cli.pretrain.anatomy import GRID, invent, smooth_noise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_invent_gives_every_anatomy_several_labels():
    fields = invent(4, 8, generator())

    assert fields.shape == (4, 8, *GRID)
    for anatomy in fields.argmax(dim=1):
        assert len(anatomy.unique()) >= 4


def test_invent_is_the_same_for_the_same_seed_and_differs_for_another():
    first, second, other = invent(1, 6, generator(1)), invent(1, 6, generator(1)), invent(1, 6, generator(2))

    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_most_anatomies_are_surrounded_by_outside():
    label = invent(32, 6, generator()).argmax(dim=1)

    corners = label[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]

    surrounded = (corners == 0).flatten(1).float().mean(dim=1) > 0.5
    assert 0.3 < float(surrounded.float().mean()) < 0.95


def test_smooth_noise_varies_over_the_scale_asked_for():
    fine = smooth_noise((8, 1, 64, 64), 64, generator())
    coarse = smooth_noise((8, 1, 64, 64), 4, generator())

    assert coarse.diff(dim=-1).abs().mean() < 0.2 * fine.diff(dim=-1).abs().mean()
