from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from amsam_cli.models.builtin import build_network
from amsam_cli.models.sam2 import Sam2
from amsam_cli.pretrain.objectives import ask, prompts_from
from amsam_cli.pretrain.parts import Part
from amsam_cli.pretrain.synthesis import Plan
from amsam_cli.pretrain.training import draw


@pytest.fixture(scope="module")
def model() -> Sam2:
    torch.manual_seed(0)
    model = Sam2(build_network(), "builtin", 64)
    model.network.requires_grad_(True)
    return model


@pytest.mark.parametrize("consecutive", [False, True], ids=["match", "track"])
def test_ask_teaches_every_part_of_the_network(model: Sam2, consecutive: bool):
    model.network.zero_grad()

    answers = ask(model, draw(Plan(2, 2, 2, 64, consecutive), 0), torch.Generator().manual_seed(0))
    answers.loss.backward()

    taught = {name.split(".")[0] for name, p in model.network.named_parameters() if p.grad is not None}
    assert {"image_encoder", "memory_attention", "memory_encoder", "sam_mask_decoder", "obj_ptr_proj"} <= taught
    assert set(answers.dice) == {"track" if consecutive else "match", "prompt", "ridge"}


def test_ask_leaves_the_classifier_or_guesses_out_where_told(model: Sam2):
    episodes = draw(Plan(2, 2, 2, 64), 0)

    def loss(*without: Part) -> list[float]:
        given = replace(episodes, without=without)
        with torch.no_grad():
            asked = [ask(model, given, torch.Generator().manual_seed(seed)) for seed in range(4)]
        return [answers.loss.item() for answers in asked]

    usual, without_ridge, without_guesses = loss(), loss(Part.RIDGE), loss(Part.GUESSES)

    told = [a - b for a, b in zip(usual, without_ridge, strict=True)]
    assert told == pytest.approx([told[0]] * 4, rel=1e-3)
    assert told[0] > 0.1
    same = [a == b for a, b in zip(usual, without_guesses, strict=True)]
    assert any(same)  # guesses are asked for in half of the steps
    assert not all(same)


def test_prompts_from_masks_box_or_click_the_object():
    masks = torch.zeros(40, 1, 64, 64)
    masks[:, :, 20:30, 40:50] = 1

    found = prompts_from(masks, torch.Generator().manual_seed(0))

    kinds = {tuple(row) for row in found.point_labels.tolist()}
    assert kinds == {(2, 3), (1, -1)}
    clicks = found.points[found.point_labels[:, 0] == 1, 0]
    assert ((clicks[:, 0] >= 40) & (clicks[:, 0] < 50) & (clicks[:, 1] >= 20) & (clicks[:, 1] < 30)).all()


def test_prompts_from_an_empty_mask_show_nothing():
    found = prompts_from(torch.zeros(1, 1, 8, 8), torch.Generator())

    assert found.point_labels.tolist() == [[-1, -1]]
