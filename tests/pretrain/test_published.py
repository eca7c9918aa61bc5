from __future__ import annotations

import torch

from amsam_cli.models.builtin import build_network
from amsam_cli.models.sam2 import Sam2
from amsam_cli.pretrain.published import ask_published, published_loss
from amsam_cli.pretrain.synthesis import Plan
from amsam_cli.pretrain.training import draw


def test_published_loss_of_a_perfect_mask_is_zero_and_of_its_opposite_one():
    truth = torch.zeros(2, 1, 8, 8)
    truth[:, :, :4] = 1

    assert float(published_loss(40 * truth - 20, truth)) < 1e-4
    assert float(published_loss(20 - 40 * truth, truth)) > 1 - 1e-4


def test_published_loss_squares_what_it_divides_by():
    # p = 1/2 everywhere, y = 1 on half of 4 pixels: 1 - 2 * 1 / (4 * 1/4 + 2)
    truth = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])

    assert abs(float(published_loss(torch.zeros(1, 1, 2, 2), truth)) - 1 / 3) < 1e-6


def test_ask_published_teaches_memory_but_not_the_encoder():
    torch.manual_seed(0)
    model = Sam2(build_network(), "builtin", 64)
    model.network.requires_grad_(True)

    ask_published(model, draw(Plan(2, 2, 1, 64), 0), torch.Generator()).loss.backward()

    taught = {name.split(".")[0] for name, p in model.network.named_parameters() if p.grad is not None}
    assert {"memory_attention", "memory_encoder", "sam_mask_decoder"} <= taught
    assert "image_encoder" not in taught
