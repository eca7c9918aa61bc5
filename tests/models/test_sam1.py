"""What is particular to SAM: the package's own builder and predictor are the reference."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from amsam_cli.models.base import Embedding, Prompts
from amsam_cli.models.sam1 import SAM_PIXELS, VITS, Sam1, build_network, resize_positions
from tests.models.conftest import TINY_VIT

SIDE = 128


@pytest.fixture(scope="module")
def sam() -> Sam1:
    torch.manual_seed(0)
    return Sam1(build_network(TINY_VIT, SIDE), "sam1")


@pytest.fixture(scope="module")
def embedding(sam: Sam1) -> Embedding:
    return sam.encode(torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))


def official(sam: Sam1, embedding: Embedding, *, points=None, boxes=None) -> torch.Tensor:
    """Return the logits of one image as SAM's own predictor asks for them."""
    network = sam.network
    sparse, dense = network.prompt_encoder(points=points, boxes=boxes, masks=None)
    pe = network.prompt_encoder.get_dense_pe()
    return network.mask_decoder(embedding.features, pe, sparse, dense, multimask_output=False)[0]


def test_sam1_decodes_like_the_official_predictor(sam, embedding):
    points = torch.tensor([[[10.0, 20], [30, 40], [0, 0]], [[10, 20], [90, 70], [0, 0]], [[5, 5], [60, 70], [20, 20]]])
    labels = torch.tensor([[1, 0, -1], [2, 3, -1], [2, 3, 1]], dtype=torch.int32)
    prompts = Prompts(torch.cat([points, torch.zeros(1, 3, 2)]), torch.cat([labels, torch.full_like(labels[:1], -1)]))

    logits = sam.decode(embedding, prompts).logits

    row = [embedding.rows([i]) for i in range(4)]
    clicks = official(sam, row[0], points=(points[:1, :2], labels[:1, :2]))
    box = official(sam, row[1], boxes=points[1:2, :2].flatten(1))
    both = official(sam, row[2], points=(points[2:, 2:], labels[2:, 2:]), boxes=points[2:, :2].flatten(1))
    nothing = official(sam, row[3])
    assert_close(logits, torch.cat([clicks, box, both, nothing]), rtol=1e-4, atol=1e-5)


def test_sam1_does_not_see_padding(sam, embedding):
    point, label = torch.full((4, 1, 2), 50.0), torch.ones(4, 1, dtype=torch.int32)
    padded = Prompts(torch.cat([torch.zeros(4, 3, 2), point], 1), torch.cat([-label.expand(-1, 3), label], 1))

    alone, among_padding = (sam.decode(embedding, prompts).logits for prompts in (Prompts(point, label), padded))

    assert torch.equal(alone, among_padding)


@pytest.mark.parametrize("labels", [[2, -1], [3, 3], [2, 2]], ids=["one corner", "two ends", "two starts"])
def test_sam1_refuses_half_a_box(sam, embedding, labels):
    prompts = Prompts(torch.zeros(1, 2, 2), torch.tensor([labels]))

    with pytest.raises(ValueError, match="at most one box, with both its corners"):
        sam.decode(embedding.rows([0]), prompts)


def test_sam1_is_always_sure_of_presence(sam, embedding):
    assert sam.decode(embedding, Prompts.empty(4)).presence.tolist() == [10.0] * 4


def test_sam1_standardises_pixels_with_the_official_statistics(sam):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) / 255 for values in SAM_PIXELS)
    pixels = torch.rand(1, 3, SIDE, SIDE)

    with torch.no_grad():
        expected = sam.network.image_encoder((pixels - mean) / std)

    assert_close(sam.encode(pixels).features, expected, rtol=1e-4, atol=1e-4)


def test_medsam_gets_pixels_between_0_and_1():
    sam = Sam1(build_network(TINY_VIT, SIDE, unit_pixels=True), "medsam")
    pixels = torch.rand(1, 3, SIDE, SIDE)

    with torch.no_grad():
        expected = sam.network.image_encoder(pixels)

    assert_close(sam.encode(pixels).features, expected, rtol=1e-4, atol=1e-4)


def test_resize_positions_leaves_a_fitting_state_alone():
    state = build_network(TINY_VIT, SIDE).state_dict()

    resized = resize_positions(state, build_network(TINY_VIT, SIDE))

    assert all(resized[key] is value for key, value in state.items())


def test_resize_positions_keeps_a_ramp_a_ramp():
    state = build_network(TINY_VIT, 256).state_dict()
    key = "image_encoder.pos_embed"
    state[key] = torch.linspace(0.5, 15.5, 16).view(1, 16, 1, 1).expand(1, 16, 16, 32)

    resized = resize_positions(state, build_network(TINY_VIT, SIDE))[key]

    assert resized.shape == (1, 8, 8, 32)
    assert_close(resized[0, :, 3, 5], torch.linspace(1, 15, 8))


def test_resize_positions_resizes_global_blocks_only():
    state = build_network(TINY_VIT, 256).state_dict()

    resized = resize_positions(state, build_network(TINY_VIT, SIDE))

    assert resized["image_encoder.blocks.0.attn.rel_pos_h"].shape == (27, 16)  # a window of 14: 2 * 14 - 1
    assert resized["image_encoder.blocks.1.attn.rel_pos_h"].shape == (15, 16)  # a grid of 8: 2 * 8 - 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit-b", "vit-l", "vit-h"])
def test_build_network_has_the_weights_of_the_official_builder(name):
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        reference = sam_model_registry[name.replace("-", "_")]()
        network = build_network(VITS[name], 1024)

    shapes, expected = ({k: v.shape for k, v in net.state_dict().items()} for net in (network, reference))
    assert shapes == expected
