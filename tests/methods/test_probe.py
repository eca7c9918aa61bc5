from __future__ import annotations

import torch

from amsam_cli.methods.probe import fit_probe
from amsam_cli.models.base import Embedding


def frames(count: int, seed: int) -> tuple[Embedding, torch.Tensor]:
    """Frames whose left label shines in a coarse channel and whose top label shines in a fine one; labels move."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 2, 32, 32)
    for row in range(count):
        x, y = torch.randint(0, 16, (2,), generator=generator).tolist()
        masks[row, 0, y : y + 16, x : x + 8] = 1
        masks[row, 1, y : y + 8, x + 8 : x + 16] = 1
    coarse = torch.nn.functional.interpolate(masks[:, :1], size=(8, 8), mode="area")
    fine = torch.nn.functional.interpolate(masks[:, 1:], size=(16, 16), mode="area")

    def noisy(level: torch.Tensor) -> torch.Tensor:
        return torch.cat([level, torch.zeros_like(level)], dim=1) + 0.1 * torch.randn(
            count, 2, *level.shape[-2:], generator=generator
        )

    return Embedding(noisy(coarse), (noisy(fine),)), masks


def overlap(prediction: torch.Tensor, truth: torch.Tensor) -> float:
    return float(2 * (prediction & truth).sum() / (prediction.sum() + truth.sum()))


def test_probe_finds_labels_in_frames_it_has_not_seen():
    probe = fit_probe(*frames(6, seed=0))
    embedding, masks = frames(3, seed=1)

    found = probe.probability(embedding) > 0.5

    truth = torch.nn.functional.interpolate(masks, size=(16, 16), mode="area") > 0.5
    assert found.shape == (3, 2, 16, 16)
    assert overlap(found[:, 0], truth[:, 0]) > 0.7
    assert overlap(found[:, 1], truth[:, 1]) > 0.8


def test_probabilities_of_labels_never_exceed_one_together():
    embedding, masks = frames(4, seed=2)

    probability = fit_probe(embedding, masks).probability(embedding)

    assert float(probability.sum(dim=1).max()) <= 1 + 1e-5


def test_fit_is_the_same_twice_and_differs_by_seed(monkeypatch):
    monkeypatch.setattr("amsam_cli.methods.probe.PIXELS", 200)
    embedding, masks = frames(4, seed=3)

    first, second, other = (fit_probe(embedding, masks, seed=seed) for seed in (0, 0, 1))

    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)


def test_label_that_no_frame_shows_is_never_predicted():
    embedding, masks = frames(4, seed=4)
    masks[:, 1] = 0

    probability = fit_probe(embedding, masks).probability(embedding)

    assert float(probability[:, 1].max()) < 0.1


def test_weighing_levels_apart_equals_weighing_resized_columns():
    embedding, masks = frames(2, seed=5)
    probe = fit_probe(embedding, masks)
    resized = torch.nn.functional.interpolate(embedding.features, size=(16, 16), mode="bilinear", align_corners=False)

    together = probe.logits(Embedding(resized, embedding.detail))

    assert torch.allclose(probe.logits(embedding), together, atol=1e-3)


def test_shuffled_masks_teach_nothing():
    embedding, masks = frames(6, seed=6)
    probe = fit_probe(embedding, masks[torch.randperm(6, generator=torch.Generator().manual_seed(0))].flip(-1))
    unseen, truth = frames(3, seed=7)
    truth = torch.nn.functional.interpolate(truth, size=(16, 16), mode="area") > 0.5

    assert overlap(probe.probability(unseen)[:, 1] > 0.5, truth[:, 1]) < 0.5
