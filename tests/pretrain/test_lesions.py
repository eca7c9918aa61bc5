from __future__ import annotations

import torch

from amsam_cli.pretrain import lesions
from amsam_cli.pretrain.lesions import with_lesions


def grown(gone: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    label = torch.ones(40, 3, 64, 64, dtype=torch.long)
    label[..., :8] = 0
    return with_lesions(label, torch.full((40, 2), 1), gone, 5, torch.Generator().manual_seed(0))


def test_lesions_become_the_target_where_they_grow():
    label, target = grown(torch.zeros(40, 3, dtype=torch.bool))

    has = (label >= 5).flatten(1).any(dim=1)
    assert 4 <= int(has.sum()) <= 25
    assert (target[has] == torch.tensor([5, 6])).all()
    assert (target[~has] == 1).sum() >= (~has).sum()


def test_lesions_lie_elsewhere_in_every_frame_and_never_on_background():
    label, _ = grown(torch.zeros(40, 3, dtype=torch.bool))

    assert not (label[..., :8] > 0).any()
    lesion = ((label == 5) | (label == 6)).float()
    both = (lesion[:, 0] * lesion[:, 1]).sum()
    assert both < 0.5 * lesion[:, 0].sum()


def test_lesions_are_missing_where_they_are_gone():
    gone = torch.zeros(40, 3, dtype=torch.bool)
    gone[:, 2] = True

    label, _ = grown(gone)

    assert not ((label[:, 2] == 5) | (label[:, 2] == 6)).any()


def test_vessels_run_beside_some_lesions_even_where_these_are_gone():
    label, target = grown(torch.ones(40, 3, dtype=torch.bool))

    has = (label == 7).flatten(2).any(dim=2)
    assert 1 <= int(has.any(dim=1).sum()) < 20
    assert (target[has.any(dim=1)] == torch.tensor([5, 6])).all()


def test_lesions_of_most_episodes_grow_in_one_tissue(monkeypatch):
    monkeypatch.setattr(lesions, "SHARE", 1.0)
    label = torch.ones(200, 3, 64, 64, dtype=torch.long)
    label[..., 32:] = 2

    label, _ = with_lesions(label, torch.ones(200, 2), torch.zeros(200, 3) > 0, 5, torch.Generator().manual_seed(0))

    grown = ((label == 5) | (label == 6)).float()
    is_left = grown[..., :32].sum(dim=(2, 3)) > grown[..., 32:].sum(dim=(2, 3))
    alike = is_left.all(dim=1) | (~is_left).all(dim=1)
    assert 0.6 < float(alike.float().mean()) < 0.95
