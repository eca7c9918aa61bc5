"""Which arithmetic a device is fast in, and attention that makes use of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

SCORES = 2**23
"""Scores that attention holds at once, 16 MiB in bfloat16: more no longer fit the caches."""

_chosen: ContextVar[bool | None] = ContextVar("chosen", default=None)


@contextmanager
def mixed_precision(device: torch.device) -> Iterator[None]:
    """Work in bfloat16 within the block where the device multiplies faster in it; else change nothing."""
    if (fast := _chosen.get()) is None:
        fast = gains_by_bfloat16(device)
    if not fast:
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


class _UnfusedAttention(TorchFunctionMode):
    """Lets `attend` answer for torch's fused attention, which without matrix units multiplies in float32 anyway."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`, or what takes its place."""
        return (attend if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))


def attend(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0
) -> Tensor:
    """Return what `F.scaled_dot_product_attention` returns, by two products of matrices, a few scores at a time.

    Args:
        query: (B, H, N, d).
        key: (B, H, M, d).
        value: (B, H, M, d).
        attn_mask: what to add to the scores, as wide as (B, H, N, M) or one there.
        dropout_p: share of the weights that is dropped.
    """
    query = query * query.shape[-1] ** -0.5
    heads, count, keys = query.shape[1], query.shape[2], key.shape[2]
    rows = max(1, SCORES // (heads * count * keys))
    size = max(1, SCORES // (rows * heads * keys))
    answers = []
    for row in (slice(start, start + rows) for start in range(0, len(query), rows)):
        parts = []
        for some in (slice(start, start + size) for start in range(0, count, size)):
            scores = query[row, :, some] @ key[row].mT
            if attn_mask is not None:
                scores = scores + attn_mask.expand(len(query), -1, count, -1)[row, :, some]
            parts.append(F.dropout(scores.softmax(dim=-1), dropout_p) @ value[row])
        answers.append(torch.cat(parts, dim=2))
    return torch.cat(answers)
