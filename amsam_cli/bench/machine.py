"""What a measurement ran on, in words that name no machine."""

from __future__ import annotations

import os
import platform


def describe_machine(device: str = "cpu") -> str:
    """Return processors, architecture and the GPU in use, such as "2 processor cores (x86_64), no GPU"."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{cores} processor core{'s' if cores > 1 else ''} ({platform.machine()}), {_gpu(device)}"


def _gpu(device: str) -> str:
    if not device.startswith("cuda"):
        return "no GPU" if device == "cpu" else device
    import torch

    return str(torch.cuda.get_device_name(device))
