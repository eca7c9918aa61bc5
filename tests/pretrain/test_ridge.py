from __future__ import annotations

import torch

from amsam_cli.models.base import Embedding
from amsam_cli.pretrain.ridge import pixel_weights, ridge_scores, shares_of


def test_shares_of_count_what_covers_each_cell():
    tissues = torch.tensor([[0, 0, 1, 1], [0, 2, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.uint8)

    shares = shares_of(tissues[None, None], 3, 2)

    assert shares.shape == (1, 1, 4, 3)
    assert shares[0, 0].tolist() == [[0.75, 0.0, 0.25], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]


def test_rare_labels_weigh_more_by_a_square_root():
    shares = torch.nn.functional.one_hot(torch.tensor([[0, 0, 0, 0, 1]])).float()

    weight = pixel_weights(shares)

    assert abs(float(weight[0, 4] / weight[0, 0]) - 2.0) < 1e-5
    assert abs(float(weight.mean()) - 1.0) < 1e-6


def test_ridge_finds_in_queries_what_features_told_apart_in_supports():
    tissues = torch.randint(3, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    noise = 0.05 * torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    fine = torch.nn.functional.one_hot(tissues.flatten(0, 1), 3).movedim(-1, 1).float() + noise
    embedding = Embedding(torch.zeros(6, 4, 4, 4), (fine.requires_grad_(),))
    shares = torch.nn.functional.one_hot(tissues.flatten(2), 3).float()

    scores = ridge_scores(embedding, shares, 2)

    assert scores.shape == (2, 1, 256, 3)
    assert (scores.argmax(dim=-1) == tissues[:, 2:].flatten(2)).float().mean() > 0.98
    scores.square().sum().backward()
    assert fine.grad is not None
    assert fine.grad[:2].abs().sum() > 0  # the supports teach too, through the solution
