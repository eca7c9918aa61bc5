"""Which arithmetic a device is fast in, and attention that makes use of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

FEW = 128
"""Queries or keys under which fused attention is faster than products of matrices."""

_chosen: ContextVar[bool | None] = ContextVar("chosen", default=None)


@contextmanager
def mixed_precision(device: torch.device) -> Iterator[None]:
    """Work in bfloat16 within the block where the device multiplies faster in it; else as it is fast in float32."""
    if (fast := _chosen.get()) is None:
        fast = gains_by_bfloat16(device)
    if not fast:
        with _ByOneDnn() if gains_by_onednn(device) else nullcontext():
            yield
        return
    with torch.autocast(device.type, dtype=torch.bfloat16):
        if device.type == "cpu" and not torch.cpu._is_amx_tile_supported():
            with _UnfusedAttention():
                yield
        else:
            yield


@contextmanager
def chosen_precision(*, is_mixed: bool) -> Iterator[None]:
    """Let every model work in bfloat16, or in full precision, for the time of the block: to compare them."""
    before = _chosen.set(is_mixed)
    try:
        yield
    finally:
        _chosen.reset(before)


def gains_by_bfloat16(device: torch.device) -> bool:
    """Return whether there are instructions for products of bfloat16; without them it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # AMX has matrix units for them, AVX-512's are of vectors.
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def gains_by_onednn(device: torch.device) -> bool:
    """Return whether oneDNN multiplies float32 faster than MKL, which torch takes and which favours its maker's."""
    told: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and torch._C._has_mkldnn and "AMD" in told.get("cpu_name", "")


class _UnfusedAttention(TorchFunctionMode):
    """Lets `attend` answer for torch's fused attention, which without matrix units multiplies in float32 anyway."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`, or what takes its place."""
        return (attend if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))


class _ByOneDnn(TorchFunctionMode):
    """Lets oneDNN multiply in linear layers and large attentions in float32, where no gradients are asked for."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`, or what takes its place."""
        first = args[0] if args else None
        if isinstance(first, Tensor) and first.dtype is torch.float32 and not torch.is_grad_enabled():
            if func is F.linear:
                func = _linear
            elif func is F.scaled_dot_product_attention and min(first.shape[-2], args[1].shape[-2]) >= FEW:
                func = partial(attend, by=BY_ONEDNN)
        return func(*args, **(kwargs or {}))


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what `F.linear` returns, by oneDNN."""
    if not inputs.numel() or inputs.ndim == 1:
        return F.linear(inputs, weight, bias)
    answer: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight.contiguous(), bias, "none", [], "")
    return answer


@dataclass(frozen=True, slots=True)
class Products:
    """What multiplies matrices in attention.

    Attributes:
        product: (..., n, d) and (..., m, d) -> (..., n, m).
        most: scores it holds at once, 16 MiB in bfloat16 and 4 in float32: more no longer fit the caches.
    """

    product: Callable[[Tensor, Tensor], Tensor]
    most: int


def _product(left: Tensor, right: Tensor) -> Tensor:
    return left @ right.mT


def _product_by_onednn(left: Tensor, right: Tensor) -> Tensor:
    pairs = zip(left.flatten(0, -3), right.flatten(0, -3), strict=True)
    products = torch.stack([_linear(one, other) for one, other in pairs])
    return products.view(*left.shape[:-1], right.shape[-2])


BY_TORCH = Products(_product, 2**23)
BY_ONEDNN = Products(_product_by_onednn, 2**20)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *,
    by: Products = BY_TORCH,
) -> Tensor:
    """Return what `F.scaled_dot_product_attention` returns, by two products of matrices, a few scores at a time.

    Args:
        query: (B, H, N, d).
        key: (B, H, M, d).
        value: (B, H, M, d).
        attn_mask: what to add to the scores, as wide as (B, H, N, M) or one there.
        dropout_p: share of the weights that is dropped.
        by: what multiplies.
    """
    query = query * query.shape[-1] ** -0.5
    heads, count, keys = query.shape[1], query.shape[2], key.shape[2]
    rows = max(1, by.most // (heads * count * keys))
    size = max(1, by.most // (rows * heads * keys))
    answers = []
    for row in (slice(start, start + rows) for start in range(0, len(query), rows)):
        parts = []
        for some in (slice(start, start + size) for start in range(0, count, size)):
            scores = by.product(query[row, :, some], key[row])
            if attn_mask is not None:
                scores = scores + attn_mask.expand(len(query), -1, count, -1)[row, :, some]
            parts.append(by.product(F.dropout(scores.softmax(dim=-1), dropout_p), value[row].mT))
        answers.append(torch.cat(parts, dim=2))
    return torch.cat(answers)
