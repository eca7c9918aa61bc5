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
from amsam_cli.models import builtin, choose_device, sam1, sam2
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


def untrained(name: str, device: str = "cpu") -> PromptableModel:
    """Return a model of the registry with random weights."""
    checkpoint, target = find_checkpoint(name), choose_device(device)
    side = checkpoint.image_size
    if checkpoint.family == "sam1":
        return sam1.Sam1(sam1.build_network(sam1.VITS[checkpoint.architecture], side).to(target), name)
    is_builtin = checkpoint.family == "builtin"
    network = builtin.build_network() if is_builtin else sam2.build_network(checkpoint.architecture)
    return sam2.Sam2(network.to(target), name, side)


def _encoding(name: str, device: str) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        model = untrained(name, device)
        frames = torch.rand(FRAMES, 3, model.image_size, model.image_size, device=model.device)
        return lambda: [float(model.encode(frame[None]).features.sum()) for frame in frames]

    return prepare


def _learning(name: str, device: str) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        model, shot = untrained(name, device), discs_shot(SIDE)
        config = AdapterConfig(tune="lora", steps=STEPS, forecast=False)
        return lambda: adapt([shot], model, config=config)

    return prepare
