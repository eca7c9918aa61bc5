"""Which arithmetic a device is fast in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch

_chosen: ContextVar[bool | None] = ContextVar("chosen", default=None)


def mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return bfloat16 autocast where the processor has matrix units for it, else a context that does nothing."""
    if (fast := _chosen.get()) is None:
        fast = _has_matrix_units(device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)


@contextmanager
def chosen_precision(*, is_mixed: bool) -> Iterator[None]:
    """Let every model work in bfloat16, or in full precision, for the time of the block: to compare them."""
    before = _chosen.set(is_mixed)
    try:
        yield
    finally:
        _chosen.reset(before)


def _has_matrix_units(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())
