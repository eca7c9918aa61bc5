from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from amsam_cli.pretrain.anatomy import invent
from amsam_cli.pretrain.parts import Part
from amsam_cli.pretrain.synthesis import (
    ALIKE,
    PATIENT_SHIFT,
    SEEN_THROUGH,
    Anatomies,
    Plan,
    _looks,
    _paint,
    _seen_through,
    render,
)

PLAN = Plan(episodes=6, supports=2, queries=2, image_size=64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("consecutive", [False, True])
def test_episodes_have_pictures_and_masks_of_one_label(consecutive: bool):
    episodes = render(Anatomies(invent(6, 8, generator())), replace(PLAN, consecutive=consecutive), generator(1))

    assert episodes.pixels.shape == (6, 4, 3, 64, 64)
    assert episodes.masks.shape == (6, 4, 1, 64, 64)
    assert 0 <= episodes.pixels.min() <= episodes.pixels.max() <= 1
    assert set(episodes.masks.unique().tolist()) == {0.0, 1.0}
    assert torch.isfinite(episodes.pixels).all()


def test_supports_nearly_always_show_the_target():
    episodes = render(Anatomies(invent(40, 8, generator())), replace(PLAN, episodes=40), generator(1))

    shown = episodes.masks[:, :2].flatten(2).amax(dim=2).mean()

    assert float(shown) > 0.9


def test_some_queries_do_not_show_the_target():
    episodes = render(Anatomies(invent(60, 8, generator())), replace(PLAN, episodes=60), generator(1))

    absent = 1 - episodes.masks[:, 2:].flatten(2).amax(dim=2).mean()

    assert 0.01 < float(absent) < 0.5


def test_targets_are_only_labels_that_are_allowed():
    fields = torch.full((4, 3, 2, 8, 8), -1.0)
    fields[:, 1, :, :4] = 1  # label 1 above, label 2 below
    fields[:, 2, :, 4:] = 1
    allowed = torch.tensor([[True, True, False]] * 4)

    marked = render(Anatomies(fields, allowed), replace(PLAN, episodes=4), generator())

    share = marked.masks.mean()
    assert 0.2 < float(share) < 0.8  # one half, never both


def test_consecutive_queries_change_little_from_one_to_the_next():
    plan = replace(PLAN, episodes=30, queries=3)
    anatomies = Anatomies(invent(30, 8, generator()))

    walked = render(anatomies, replace(plan, consecutive=True), generator(1)).masks[:, 2:]
    jumped = render(anatomies, plan, generator(1)).masks[:, 2:]

    assert walked.diff(dim=1).abs().mean() < 0.7 * jumped.diff(dim=1).abs().mean()


def test_real_look_is_taken_from_the_image():
    fields = torch.zeros(2, 2, 4, 16, 16)
    fields[:, 1, :, 4:12, 4:12] = 1
    image = fields[:, 1:2].clone()

    episodes = render(Anatomies(fields, image=image), replace(PLAN, episodes=2), generator())

    inside = episodes.pixels[:, :, :1][episodes.masks > 0].mean()
    outside = episodes.pixels[:, :, :1][episodes.masks == 0].mean()
    assert inside > outside + 0.2


def test_patients_of_an_episode_differ_in_the_brightness_of_a_tissue():
    label = torch.ones(200, 4, 16, 16, dtype=torch.long)  # one tissue fills every frame

    means = _paint(label, 2, generator()).mean(dim=(2, 3, 4))
    spread = means.std(dim=1)

    assert 0.4 * PATIENT_SHIFT < spread.max() < 2 * PATIENT_SHIFT
    assert spread.median() < 0.5 * PATIENT_SHIFT


def test_another_anatomy_shines_through_some_episodes():
    pictures = torch.zeros(200, 2, 1, 4, 4)
    pictures[::2] = 1

    seen = _seen_through(pictures, generator())

    changed = (seen - pictures).flatten(1).amax(dim=1)[1::2]  # those that are dark by themselves
    assert 0 < float((changed > 0).float().mean()) < 2 * SEEN_THROUGH
    assert 0.1 <= float(changed[changed > 0].min()) <= float(changed.max()) <= 0.7
    assert torch.equal(seen.std(dim=(3, 4)), torch.zeros(200, 2, 1))


def test_other_labels_look_as_the_target_in_some_episodes_and_vessels_in_all():
    look = _looks(torch.full((400, 2), 2), 6, ALIKE, generator())

    own = look == torch.arange(6)
    assert (own | (look == 2)).all()
    assert own[:, [0, 2]].all()
    assert (look[:, 5] == 2).all()
    assert 0.5 * ALIKE < float((~own[:, :5]).any(dim=1).float().mean()) < 1.2 * ALIKE


def test_looks_without_look_alikes_are_each_labels_own():
    look = _looks(torch.full((400, 2), 2), 6, 0.0, generator())

    assert (look[:, :5] == torch.arange(5)).all()


def test_episodes_without_lesions_have_no_label_beyond_the_anatomy():
    anatomies = Anatomies(invent(40, 8, generator()))

    with_them, without = (
        render(anatomies, replace(PLAN, episodes=40, without=without), generator(1))
        for without in ((), (Part.LESIONS,))
    )

    assert with_them.tissues.max() >= 8
    assert without.tissues.max() < 8
