"""The peer that every few-shot method has to beat: a U-Net trained from scratch on the same slices.

MONAI's residual U-Net, MONAI's augmentation, and the same frames that amsam's own model sees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    Rand2DElasticd,
    RandAdjustContrastd,
    RandBiasFieldd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from torch import Tensor, nn

from amsam_cli.bench.base import Query
from amsam_cli.models.base import OnStep
from amsam_cli.preprocess import Frames, Placement, Recipe
from amsam_cli.preprocess import fit as fit_recipe
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
            "precision": "bfloat16 autocast",
            "image_size": self.image_size,
            "steps": self.steps,
            "batch": self.batch,
            "learning_rate": self.learning_rate,
            "weight_decay": WEIGHT_DECAY,
            "gradient_norm": CLIP,
        }

    def fit(self, shots: Sequence[Shot], *, seed: int, on_step: OnStep | None = None) -> TrainedUNet:
        """Return the network trained on exactly these slices."""
        values = sorted({value for shot in shots for value in shot.labels.values()})
        first = shots[0].volume
        recipe = fit_recipe(shots, image_size=self.image_size, plane=None if first.is_picture else first.geometry.plane)
        lesson = [_slice_of(shot, recipe, values) for shot in shots]
        cuda = [torch.device(self.device)] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            network = _network(recipe.channels, len(values)).to(self.device)
            self._train(network, _Batches(lesson, self.batch, seed), on_step)
        names = {value: shots[0].labels.names.get(value, f"label_{value}") for value in values}
        return TrainedUNet(network.eval(), recipe, names)

    def _train(self, network: nn.Module, batches: _Batches, on_step: OnStep | None) -> None:
        loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
        optimiser = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=WEIGHT_DECAY)
        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warm_cosine(step, self.steps))
        network.train()
        for step in range(self.steps):
            pixels, target = (part.to(self.device) for part in batches.draw())
            with _half_precision(self.device):
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
    """A trained network, how its frames are made, and the labels of its channels after background."""

    network: nn.Module
    recipe: Recipe
    names: Mapping[int, str]

    @torch.no_grad()
    def segment(self, query: Query) -> LabelMap:
        """Return the label with the highest logit at each voxel of the scan's own grid."""
        volume = query.volume
        frames, placement = Frames(volume, self.recipe), Placement.of(volume.geometry, self.recipe.image_size)
        device = next(self.network.parameters()).device
        values = np.array([0, *self.names], dtype=np.uint16)
        found = np.zeros(volume.geometry.shape, dtype=np.uint16)
        for start, pixels in frames.batches(8):
            with _half_precision(str(device)):
                logits = self.network(_centred(pixels[:, : self.recipe.channels]).to(device))
            winner = placement.restore(logits.float()).argmax(dim=1).cpu().numpy()
            found[start : start + len(winner)] = values[winner]
        return LabelMap(found, volume.geometry, dict(self.names))


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


def _half_precision(device: str) -> torch.autocast:
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind in ("cpu", "cuda"))


def _centred(pixels: Tensor) -> Tensor:
    """Return intensities in [0, 1] as the network takes them: about zero, with a spread of about one."""
    return pixels * 4 - 2


def _slice_of(shot: Shot, recipe: Recipe, values: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return a shot's frame (C, S, S) in [0, 1] and the number of each pixel's label (1, S, S), 0 for background."""
    frames = Frames(shot.volume, recipe, scan=shot.scan())
    masks = frames.masks(shot.labels, values)[0]
    share, label = masks.max(dim=0, keepdim=True)
    rest = 1 - masks.sum(dim=0, keepdim=True)
    return frames.pixels(0, 1)[0, : recipe.channels], torch.where(share > rest, label + 1, 0).float()


class _Batches:
    """Draws slices with replacement, each augmented anew."""

    def __init__(self, lesson: Sequence[tuple[Tensor, Tensor]], size: int, seed: int) -> None:
        self._lesson = lesson
        self._size = size
        self._generator = torch.Generator().manual_seed(seed)
        self._augment = _augmentation(lesson[0][0].shape[-1])
        self._augment.set_random_state(seed=seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return frames (B, C, S, S) and label numbers (B, 1, S, S)."""
        picks = torch.randint(len(self._lesson), (self._size,), generator=self._generator).tolist()
        views = [self._augment({"image": self._lesson[k][0], "label": self._lesson[k][1]}) for k in picks]
        pixels = torch.stack([view["image"].as_tensor() for view in views]).clamp(0, 1)
        target = torch.stack([view["label"].as_tensor() for view in views])
        return _centred(pixels), target


def _augmentation(side: int) -> Any:
    """Return what nnU-Net does to its slices, flips left out: anatomy has sides."""
    return Compose(
        [
            Rand2DElasticd(
                ["image", "label"],
                spacing=(side / 6, side / 6),
                magnitude_range=(0, side / 50),
                prob=0.9,
                rotate_range=0.35,
                shear_range=0.1,
                translate_range=side / 10,
                scale_range=0.25,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandAdjustContrastd("image", prob=0.4, gamma=(0.6, 1.6)),
            RandScaleIntensityd("image", prob=0.4, factors=0.25),
            RandShiftIntensityd("image", prob=0.4, offsets=0.1),
            RandBiasFieldd("image", prob=0.3, degree=2, coeff_range=(0.0, 0.2)),
            RandGaussianSmoothd("image", prob=0.2, sigma_x=(0.3, 1.2), sigma_y=(0.3, 1.2)),
            RandGaussianNoised("image", prob=0.3, std=0.05),
        ]
    )
