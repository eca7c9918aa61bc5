"""Adding to the scores of SAM 2's memory attention: for calibration, and for rows that lack a memory.

The official modules stay as they are: for the time of a block, the cross-attentions of one instance answer through the
function below, which does what theirs does, with something added before softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from sam2.modeling.position_encoding import apply_rotary_enc
from torch import Tensor, nn
from torch.nn import functional as F

Addend = Callable[[Tensor, Tensor], Tensor]
"""Queries (B, N, d) and keys (B, M, d) -> (B, N, M) or (B, 1, M)."""

SCORES_MIB = 256
"""Scores held at once; more queries than fit are answered in turn."""


@contextmanager
def added_to_scores(memory_attention: nn.Module, addend: Addend | None) -> Iterator[None]:
    """Let `addend` add to the scores of every cross-attention of a `MemoryAttention` within the block.

    With None nothing is touched, so the network answers as published, to the bit.
    """
    if addend is None:
        yield
        return
    crosses = [layer.cross_attn_image for layer in memory_attention.layers]  # type: ignore[union-attr]
    for cross in crosses:
        cross.forward = partial(_attend, cross, addend)
    try:
        yield
    finally:
        for cross in crosses:
            del cross.forward


def _attend(cross: Any, addend: Addend, q: Tensor, k: Tensor, v: Tensor, num_k_exclude_rope: int = 0) -> Tensor:
    """Return what `RoPEAttention.forward` returns, (B, N, C), with `addend` added to the scores."""
    queries, keys, values = cross.q_proj(q), cross.k_proj(k), cross.v_proj(v)
    queries, keys = _rotated(cross, queries, keys, keys.shape[1] - num_k_exclude_rope)
    batch, count, _ = queries.shape
    fitting = max(1, SCORES_MIB * 2**18 // (batch * keys.shape[1]))
    dropout = cross.dropout_p if cross.training else 0.0
    answers = []
    for start in range(0, count, fitting):
        some = queries[:, start : start + fitting]
        added = addend(some, keys).to(some.dtype)
        # One head, as every SAM 2 has here; its axis is what the fused kernel wants.
        mixed = F.scaled_dot_product_attention(
            some[:, None], keys[:, None], values[:, None], attn_mask=added[:, None], dropout_p=dropout
        )
        answers.append(mixed[:, 0])
    out: Tensor = cross.out_proj(torch.cat(answers, dim=1))
    return out


def _rotated(cross: Any, queries: Tensor, keys: Tensor, spatial: int) -> tuple[Tensor, Tensor]:
    """Return queries and the first `spatial` keys turned by their place in the frame."""
    side = round(queries.shape[1] ** 0.5)
    codes = cross.compute_cis(end_x=side, end_y=side).to(queries.device)
    turned, turned_keys = apply_rotary_enc(
        queries[:, None], keys[:, None, :spatial], freqs_cis=codes, repeat_freqs_k=cross.rope_k_repeat
    )
    return turned[:, 0], torch.cat([turned_keys[:, 0], keys[:, spatial:]], dim=1)
