from __future__ import annotations

import torch

from amsam_cli.methods.pseudo_prompt import Prototypes, masked_average, priors, prototypes, similarities


def two_tone(rows: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (n, 2, 8, 8), one direction inside a square and another outside, and masks (n, 1, 32, 32)."""
    features = torch.zeros(rows, 2, 8, 8)
    features[:, 0] = 1
    features[:, :, 2:6, 2:6] = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    masks = torch.zeros(rows, 1, 32, 32)
    masks[:, :, 8:24, 8:24] = 1
    return features, masks


def test_masked_average_is_the_mean_inside_the_mask():
    features = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])

    average = masked_average(features, mask)

    assert abs(float(average) - 4 / 2.0005) < 1e-6  # (1 + 3) / (2 + 5e-4)


def test_prior_of_the_support_itself_is_the_mask():
    features, masks = two_tone()

    found = priors(*similarities(features, prototypes(features, masks)))

    small = masks[:, :, ::4, ::4] > 0
    assert torch.equal(found.discriminative > 0.5, small)
    assert torch.equal(found.foreground > 0.5, small)


def test_prior_gives_a_slice_without_the_object_no_peak():
    features, masks = two_tone(rows=2)
    features[1, 0], features[1, 1] = 1, 0.05  # a second slice that is background all over

    known = prototypes(features[:1], masks[:1])
    found = priors(*similarities(features, known))

    assert found.discriminative[0].max() == 1
    assert found.discriminative[1].max() < 0.1


def test_similarities_average_only_supports_that_show_the_label():
    features, masks = two_tone()
    known = prototypes(features, masks)
    empty = Prototypes(torch.full_like(known.foreground, -1), known.background, torch.zeros(1, 1, dtype=torch.bool))
    both = Prototypes(
        torch.cat([known.foreground, empty.foreground]),
        torch.cat([known.background, empty.background]),
        torch.cat([known.present, empty.present]),
    )

    alone, _ = similarities(features, known)
    together, _ = similarities(features, both)

    torch.testing.assert_close(together, alone)


def test_label_no_support_shows_is_nowhere_similar():
    features, masks = two_tone()
    known = prototypes(features, torch.zeros_like(masks))

    foreground, _ = similarities(features, known)

    assert (foreground == -1).all()
