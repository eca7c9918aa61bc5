"""What models of each size cost at the frame side amsam uses them at: encoding frames, and learning from one slice.

Their weights are random, which changes no time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from amsam_cli.adaptation import adapt
from amsam_cli.adapter import AdapterConfig
from amsam_cli.bench.depth import SIDE, discs_shot
from amsam_cli.bench.speed import Work
from amsam_cli.models import choose_device, untrained
from amsam_cli.models.base import PromptableModel
from amsam_cli.weights import find_checkpoint

MODELS = (
    "builtin", "sam2.1-tiny", "sam2.1-small", "sam2.1-base-plus", "sam2.1-large", "sam-vit-b", "sam-vit-l", "sam-vit-h",
)  # fmt: skip
FRAMES = 4
STEPS = 10


def size_works(names: Sequence[str] = MODELS, *, device: str = "cpu") -> list[Work]:
    """Return encoding by each model, seconds being per frame, then LoRA of ten steps from one slice, views included."""
    sides = {name: find_checkpoint(name).image_size for name in names}
    return [
        *(
            Work(f"{name} encodes a frame of {side} px", "encoding", _encoding(name, device), FRAMES)
            for name, side in sides.items()
        ),
        *(
            Work(f"{name} learns from a slice in {STEPS} steps", "learning from a slice", _learning(name, device))
            for name in names
        ),
    ]


def _encoding(name: str, device: str) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        model = _model(name, device)
        frames = torch.rand(FRAMES, 3, model.image_size, model.image_size, device=model.device)
        return lambda: [float(model.encode(frame[None]).features.sum()) for frame in frames]

    return prepare


def _learning(name: str, device: str) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        model, shot = _model(name, device), discs_shot(SIDE)
        config = AdapterConfig(tune="lora", steps=STEPS, forecast=False)
        return lambda: adapt([shot], model, config=config)

    return prepare


def _model(name: str, device: str) -> PromptableModel:
    checkpoint = find_checkpoint(name)
    return untrained(checkpoint, choose_device(device), checkpoint.image_size)
