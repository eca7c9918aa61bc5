"""Arithmetic: attention by two products is the fused one, and bfloat16 changes masks by little."""

from __future__ import annotations

from contextvars import copy_context

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from amsam_cli.models import builtin, precision
from amsam_cli.models.precision import Products, _linear, attend, chosen_precision, mixed_precision
from amsam_cli.models.sam2 import Sam2
from tests.toy import disc_frames

CPU = torch.device("cpu")


def _is_mixed() -> bool:
    with mixed_precision(CPU):
        return torch.is_autocast_enabled("cpu")


def qkv(rows: int = 3, heads: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    query, key, value = (torch.randn(rows, heads, count, 8) for count in (10, 14, 14))
    return query, key, value


@pytest.mark.parametrize("scores", [2**23, 300, 100, 1], ids=["at once", "rows in turn", "queries in turn", "alone"])
@pytest.mark.parametrize("mask", [None, (3, 1, 1, 14), (3, 1, 10, 14), (3, 2, 10, 14)], ids=str)
@pytest.mark.parametrize("product", [precision._product, precision._product_by_onednn], ids=["torch", "oneDNN"])
def test_attend_is_the_fused_attention(product, scores, mask):
    query, key, value = qkv()
    added = None if mask is None else torch.randn(mask)

    assert_close(
        attend(query, key, value, attn_mask=added, by=Products(product, scores)),
        F.scaled_dot_product_attention(query, key, value, attn_mask=added),
    )


def test_attend_has_the_gradients_of_the_fused_attention():
    query, key, value = (each.requires_grad_() for each in qkv())

    gradients = [
        torch.autograd.grad(answer(query, key, value).square().sum(), (query, key, value))
        for answer in (attend, F.scaled_dot_product_attention)
    ]

    for ours, theirs in zip(*gradients, strict=True):
        assert_close(ours, theirs)


def test_attend_drops_weights_at_random():
    query, key, value = qkv()

    torch.manual_seed(0)
    dropped = attend(query, key, torch.ones_like(value), dropout_p=0.5)

    assert dropped.std() > 0.1
    assert abs(float(dropped.mean()) - 1) < 0.1


@pytest.mark.parametrize("has_matrix_units", [False, True])
def test_attention_is_unfused_only_where_the_fused_one_is_slow(monkeypatch, has_matrix_units):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_matrix_units)
    asked = []
    monkeypatch.setattr(precision, "attend", lambda query, key, value: asked.append(query.dtype) or query)

    with chosen_precision(is_mixed=True), mixed_precision(CPU):
        F.scaled_dot_product_attention(*qkv())
    F.scaled_dot_product_attention(*qkv())

    assert len(asked) == (0 if has_matrix_units else 1)


@pytest.mark.parametrize(
    ("matrices", "vectors", "fast"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_bfloat16_is_chosen_where_the_processor_multiplies_in_it(monkeypatch, matrices, vectors, fast):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: matrices)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    seen = copy_context()
    seen.run(precision._chosen.set, None)  # as where nobody chose, which tests do (`tests/conftest.py`)

    assert seen.run(_is_mixed) == fast


def recalled(*, is_mixed: bool) -> torch.Tensor:
    torch.manual_seed(0)
    model = Sam2(builtin.build_network(), "builtin", 256)
    pixels, masks = disc_frames(2, image_size=256)
    with chosen_precision(is_mixed=is_mixed):
        embedding = model.encode(pixels)
        return model.recall(embedding, [model.remember(embedding, masks)]).logits


def test_bfloat16_changes_masks_by_little():
    full, half = recalled(is_mixed=False), recalled(is_mixed=True)

    assert 0 < (full - half).abs().max() < 0.1 * full.abs().max()


@pytest.mark.parametrize(("name", "gains"), [("AMD EPYC", True), ("Intel(R) Xeon(R) 6980P", False), (None, False)])
def test_onednn_multiplies_where_mkl_is_slow(monkeypatch, name, gains):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name} if name else {}, raising=False)

    assert precision.gains_by_onednn(CPU) == gains
    assert not precision.gains_by_onednn(torch.device("cuda"))


@torch.no_grad()
def test_onednn_changes_masks_by_rounding_alone(monkeypatch):
    asked: list[torch.Size] = []
    monkeypatch.setattr(precision, "_linear", lambda *args: asked.append(args[0].shape) or _linear(*args))
    monkeypatch.setattr(precision, "gains_by_onednn", lambda device: False)
    by_mkl = recalled(is_mixed=False)
    assert not asked

    monkeypatch.setattr(precision, "gains_by_onednn", lambda device: True)

    assert_close(recalled(is_mixed=False), by_mkl, rtol=1e-3, atol=1e-3)
    assert asked


@torch.no_grad()
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5)], ids=str)
def test_linear_by_onednn_is_the_other(shape):
    torch.manual_seed(0)
    inputs, weight, bias = torch.randn(shape), torch.randn(4, 5), torch.randn(4)

    assert_close(_linear(inputs, weight, bias), F.linear(inputs, weight, bias))
    assert_close(_linear(inputs, weight), F.linear(inputs, weight))


def test_gradients_never_go_through_onednn(monkeypatch):
    monkeypatch.setattr(precision, "gains_by_onednn", lambda device: True)
    weight = torch.randn(4, 5, requires_grad=True)

    with chosen_precision(is_mixed=False), mixed_precision(CPU):
        F.linear(torch.randn(3, 5), weight).sum().backward()

    assert weight.grad is not None
