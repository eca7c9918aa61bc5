from __future__ import annotations

from pathlib import Path

import pytest
import torch

from amsam_cli.errors import InputError
from amsam_cli.pretrain.classes import Classes
from amsam_cli.pretrain.synthesis import Plan


def test_episodes_show_one_class_in_different_patients(pictures: Path):
    episodes = Classes(pictures).draw(Plan(6, 1, 1, 64), torch.Generator().manual_seed(0))

    assert episodes.pixels.shape == (6, 2, 3, 64, 64)
    assert episodes.masks.shape == (6, 2, 1, 64, 64)
    assert (episodes.masks.flatten(2).sum(dim=2) > 100).all()
    assert (episodes.pixels[:, 0] - episodes.pixels[:, 1]).abs().flatten(1).amax(dim=1).min() > 0.1
    brightness = episodes.pixels[:, :, :1][episodes.masks > 0]
    assert brightness.min() > 0.2  # what is marked is a shape, never the dark ground


def test_patients_held_out_are_never_learned_from(pictures: Path):
    learned, kept = Classes(pictures), Classes(pictures, held_out=True)

    assert len(learned) == len(kept) == 2
    names = [{name for patients in classes._classes.values() for name in patients} for classes in (learned, kept)]
    assert not names[0] & names[1]
    assert len(names[1]) == 2


def test_folder_without_sets_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no set"):
        Classes(tmp_path)
