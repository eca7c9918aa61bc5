from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from amsam_cli.methods.calibration import CalibrationHead, calibrated, channels_of
from amsam_cli.models import builtin
from amsam_cli.models.base import PromptableModel, Prompts
from amsam_cli.models.sam1 import Sam1, Vit, build_network
from amsam_cli.models.sam2 import Sam2
from tests.toy import ToyModel

MAKERS: dict[str, Callable[[], PromptableModel]] = {
    "toy": ToyModel,
    "sam1": lambda: Sam1(build_network(Vit(width=32, depth=1, heads=2, global_blocks=(0,)), 64), "sam1"),
    "sam2": lambda: Sam2(builtin.build_network(), "builtin", 64),
}


@pytest.fixture(scope="module", params=list(MAKERS))
def model(request: pytest.FixtureRequest) -> PromptableModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MAKERS[request.param]()


def decoder_of(model: PromptableModel) -> nn.Module:
    return model.adaptable()["decoder"]


def trained_head(model: PromptableModel) -> CalibrationHead:
    """Return a head that changes masks."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        head = CalibrationHead(channels_of(decoder_of(model)))
        nn.init.normal_(head.sum.weight)
    return head


def ask(model: PromptableModel) -> torch.Tensor:
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.decode(model.encode(pixels), Prompts.empty(2)).logits


def test_untrained_head_leaves_every_mask_as_it_was(model: PromptableModel):
    plain = ask(model)

    with calibrated(decoder_of(model), CalibrationHead(channels_of(decoder_of(model)))):
        calibrated_ = ask(model)

    assert torch.equal(plain, calibrated_)


def test_original_new_and_combined_masks_can_be_read(model: PromptableModel):
    plain = ask(model)

    with calibrated(decoder_of(model), trained_head(model)) as tap:
        answer = ask(model)

    assert torch.allclose(tap.masks.original, plain, atol=1e-4)
    assert tap.masks.new.abs().max() > 1e-3
    assert torch.allclose(tap.masks.combined, tap.masks.original + tap.masks.new, atol=1e-5)
    assert torch.equal(answer, tap.masks.combined)


def test_mean_averages_original_and_new(model: PromptableModel):
    with calibrated(decoder_of(model), trained_head(model), combine="mean") as tap:
        ask(model)

    assert torch.allclose(tap.masks.combined, (tap.masks.original + tap.masks.new) / 2, atol=1e-5)


def test_what_the_hooks_hear_multiplies_to_the_decoders_own_mask(model: PromptableModel):
    class Dot(CalibrationHead):
        def forward(self, tokens: torch.Tensor, upscaled: torch.Tensor) -> torch.Tensor:
            return torch.einsum("btc,bchw->bthw", tokens, upscaled)

    with calibrated(decoder_of(model), Dot(channels_of(decoder_of(model)))) as tap:
        ask(model)

    assert torch.allclose(tap.masks.new, tap.masks.original, atol=1e-4)


def test_decoder_is_itself_again_afterwards(model: PromptableModel):
    plain = ask(model)

    with calibrated(decoder_of(model), trained_head(model)):
        ask(model)

    assert torch.equal(ask(model), plain)
    assert "predict_masks" not in vars(decoder_of(model))


def test_head_is_the_formula_of_the_element_wise_product():
    head = CalibrationHead(4)
    nn.init.normal_(head.sum.weight)
    tokens, upscaled = torch.randn(2, 3, 4), torch.randn(2, 4, 5, 5)

    found = head(tokens, upscaled)

    product = tokens[:, :, :, None, None] * upscaled[:, None]  # (B, T, C, s, s)
    expected = head.sum(F.gelu(head.mix(product.flatten(0, 1)))).view(2, 3, 5, 5)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("width", "count"), [(256, 1089), (128, 289)])
def test_head_has_as_many_weights_as_the_width_implies(width: int, count: int):
    # SAM upscales to an eighth of its width c: c*c + c, then c + 1.
    head = CalibrationHead(width // 8)

    assert sum(parameter.numel() for parameter in head.parameters()) == count


def test_built_in_decoder_upscales_to_an_eighth_of_its_width():
    assert channels_of(decoder_of(MAKERS["sam2"]())) == 128 // 8


def test_each_thread_reads_its_own_masks():
    model = ToyModel()

    with calibrated(decoder_of(model), trained_head(model)) as tap:
        ask(model)
        other = threading.Thread(target=lambda: model.decode(model.encode(torch.rand(5, 3, 64, 64)), Prompts.empty(5)))
        other.start()
        other.join()

    assert len(tap.masks.original) == 2
