from __future__ import annotations

import pytest
import torch

from amsam_cli.methods.blending import Blend, fit_blend


def scene(seed: int = 0) -> tuple[torch.Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.zeros(6, 24, 24)
    for row in range(5):
        y, x = torch.randint(0, 14, (2,), generator=generator).tolist()
        truth[row, y : y + 8, x : x + 8] = 1
    return truth, generator


def noise(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(6, 24, 24, generator=generator)


def test_blend_trusts_the_look_that_was_right():
    truth, generator = scene()
    looks = {"prior": 3 * noise(generator), "slice": 3 * noise(generator), "support": 6 * truth - 3 + noise(generator)}

    blend = fit_blend(looks, truth)

    assert blend.support > 0.75
    assert blend.prior + blend.slice + blend.support == pytest.approx(1, abs=1e-3)


def test_blend_mends_a_look_that_is_too_shy():
    truth, generator = scene()
    shy = 4 * truth - 3.5 + 0.3 * noise(generator)

    blend = fit_blend(dict.fromkeys(("prior", "slice", "support"), shy), truth)

    assert -2 <= blend.level < -1


def test_level_stays_within_bounds_when_a_look_sees_nothing():
    truth, _ = scene()

    blend = fit_blend(dict.fromkeys(("prior", "slice", "support"), torch.full_like(truth, -10.0)), truth)

    assert -2 <= blend.level <= 2


def test_label_shown_nowhere_leaves_the_level_at_zero():
    truth, generator = scene()

    assert fit_blend(dict.fromkeys(("prior", "slice", "support"), noise(generator)), torch.zeros_like(truth)).level == 0


def test_tracks_count_as_memories():
    blend = Blend(0.2, 0.3, 0.5)

    assert [blend.share(name) for name in ("prior", "slice", "support", "forward", "backward")] == [
        0.2,
        0.3,
        0.5,
        0.5,
        0.5,
    ]


@pytest.mark.parametrize("constant", [-10.0, 10.0])
def test_look_that_says_the_same_everywhere_has_no_share(constant: float):
    truth, generator = scene()
    good = 6 * truth - 3 + noise(generator)

    blend = fit_blend({"prior": good, "slice": torch.full_like(truth, constant), "support": good}, truth)

    assert blend.slice < 0.01
    assert abs(blend.level) < 2
