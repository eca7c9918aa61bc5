"""Which arithmetic a device is fast in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch


def mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return bfloat16 autocast where the processor has matrix units for it, else a context that does nothing."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)
