"""The peer that every few-shot method has to beat: a U-Net trained from scratch on the same slices.

MONAI's residual U-Net, MONAI's augmentation, and the same frames that amsam's own model sees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import Tensor, nn

from amsam_cli.bench.base import Query
from amsam_cli.bench.slices import Lesson, augmentation
from amsam_cli.models.base import OnStep
from amsam_cli.models.precision import mixed_precision
from amsam_cli.report import Json
from amsam_cli.volume import LabelMap, Shot

VERSION = "1"
WIDTHS = (16, 32, 64, 128, 256)
RESIDUAL_UNITS = 2
WEIGHT_DECAY = 1e-2
# Clipped and at 5e-3, four slices are learned by heart in 80 steps; unclipped at 2e-3 that has hardly begun by then.
CLIP = 1.0
WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""
PRECISION = "bfloat16 where the device has units for it, else float32"


@dataclass(frozen=True, slots=True)
class ScratchUNet:
    """A 2D U-Net with random weights at the start of every fit.

    Attributes:
        name: in tables.
        image_size: frame side S in pixels.
        steps: of the optimiser, whatever the number of shots.
        batch: augmented slices in a step.
        learning_rate: at its highest.
        device: where it runs.
    """

    name: str = "unet"
    image_size: int = 256
    steps: int = 600
    batch: int = 4
    learning_rate: float = 5e-3
    device: str = "cpu"

    @property
    def version(self) -> str:
        """Of this file."""
        return VERSION

    @property
    def settings(self) -> Mapping[str, Json]:
        """Network, augmentation and schedule."""
        return {
            "network": f"monai UNet 2D, widths {'-'.join(map(str, WIDTHS))}, {RESIDUAL_UNITS} residual units",
            "augmentation": "elastic with affine, gamma, scale, shift, bias field, blur, noise; no flips",
            "loss": "Dice + cross-entropy",
            "optimiser": "AdamW, cosine",
            "precision": PRECISION,
            "image_size": self.image_size,
            "steps": self.steps,
            "batch": self.batch,
            "learning_rate": self.learning_rate,
            "weight_decay": WEIGHT_DECAY,
            "gradient_norm": CLIP,
        }

    def fit(self, shots: Sequence[Shot], *, seed: int, on_step: OnStep | None = None) -> TrainedUNet:
        """Return the network trained on exactly these slices."""
        lesson = Lesson.of(shots, self.image_size)
        cuda = [torch.device(self.device)] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            network = _network(lesson.recipe.channels, len(lesson.names)).to(self.device)
            self._train(network, _Batches(lesson, self.batch, seed), on_step)
        return TrainedUNet(network.eval(), lesson)

    def _train(self, network: nn.Module, batches: _Batches, on_step: OnStep | None) -> None:
        loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
        optimiser = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=WEIGHT_DECAY)
        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warm_cosine(step, self.steps))
        network.train()
        for step in range(self.steps):
            pixels, target = (part.to(self.device) for part in batches.draw())
            with mixed_precision(torch.device(self.device)):
                logits = network(pixels)
            loss = loss_of(logits.float(), target)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimiser.step()
            rate.step()
            if on_step:
                on_step(self.name, step + 1, self.steps)


@dataclass(frozen=True, slots=True, eq=False)
class TrainedUNet:
    """A trained network and the lesson that says how frames are made and what its channels are."""

    network: nn.Module
    lesson: Lesson

    @torch.no_grad()
    def segment(self, query: Query) -> LabelMap:
        """Return the label with the highest logit at each voxel of the scan's own grid."""
        return self.lesson.read(query.volume, self._logits)

    def _logits(self, pixels: Tensor) -> Tensor:
        device = next(self.network.parameters()).device
        with mixed_precision(device):
            logits: Tensor = self.network(_centred(pixels).to(device))
        return logits


def warm_cosine(step: int, steps: int) -> float:
    """Return the share of the learning rate at `step`: up in a line, down in half a cosine.

    >>> warm_cosine(0, 200), warm_cosine(100, 200), warm_cosine(200, 200)
    (0.1, 0.5, 0.0)
    """
    rise = min(1.0, (step + 1) / max(1, round(WARM_UP * steps)))
    return round(rise * (1 + math.cos(math.pi * step / steps)) / 2, 12)


def _network(channels: int, labels: int) -> nn.Module:
    strides = (2,) * (len(WIDTHS) - 1)
    network: nn.Module = UNet(2, channels, labels + 1, WIDTHS, strides, num_res_units=RESIDUAL_UNITS)
    return network


def _centred(pixels: Tensor) -> Tensor:
    """Return intensities in [0, 1] as the network takes them: about zero, with a spread of about one."""
    return pixels * 4 - 2


class _Batches:
    """Draws slices with replacement, each augmented anew."""

    def __init__(self, lesson: Lesson, size: int, seed: int) -> None:
        self._lesson = lesson
        self._size = size
        self._generator = torch.Generator().manual_seed(seed)
        self._augment = augmentation(lesson.recipe.image_size)
        self._augment.set_random_state(seed=seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return frames (B, C, S, S) and label numbers (B, 1, S, S)."""
        picks = torch.randint(len(self._lesson.pixels), (self._size,), generator=self._generator).tolist()
        images, classes = self._lesson.pixels, self._lesson.classes
        views = [self._augment({"image": images[pick], "label": classes[pick]}) for pick in picks]
        pixels = torch.stack([view["image"].as_tensor() for view in views]).clamp(0, 1)
        target = torch.stack([view["label"].as_tensor() for view in views])
        return _centred(pixels), target
