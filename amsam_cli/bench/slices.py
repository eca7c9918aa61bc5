"""What peers that work slice by slice share: shots as frames with one class a pixel, and class scores back on a scan.

Keeps every peer on the same frames and the same way back, so that they differ in method only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
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
from torch import Tensor

from amsam_cli.preprocess import Frames, Placement, Recipe
from amsam_cli.preprocess import fit as fit_recipe
from amsam_cli.volume import LabelMap, Shot, Volume

BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """Annotated slices as a classifier of pixels sees them.

    Attributes:
        recipe: how frames are made, also those of scans to segment.
        names: label value -> name, ascending; class c > 0 is the c-th of them, class 0 background.
        pixels: (K, C, S, S) float32 in [0, 1], C as in the recipe.
        classes: (K, 1, S, S) float32, the class of each pixel.
    """

    recipe: Recipe
    names: Mapping[int, str]
    pixels: Tensor
    classes: Tensor

    @classmethod
    def of(cls, shots: Sequence[Shot], image_size: int) -> Lesson:
        """Return the lesson of shots in frames of so many pixels."""
        values = sorted({value for shot in shots for value in shot.labels.values()})
        first = shots[0].volume
        recipe = fit_recipe(shots, image_size=image_size, plane=None if first.is_picture else first.geometry.plane)
        pixels, classes = zip(*(_slice_of(shot, recipe, values) for shot in shots), strict=True)
        named = {value: shots[0].labels.names.get(value, f"label_{value}") for value in values}
        return cls(recipe, named, torch.stack(pixels), torch.stack(classes))

    def read(self, scan: Volume, score: Callable[[Tensor], Tensor]) -> LabelMap:
        """Return the class with the highest score at each voxel of a scan's own grid.

        Args:
            scan: in the plane of the shots.
            score: frames (n, C, S, S) in [0, 1] -> scores (n, classes, s, s), background first.
        """
        frames, placement = Frames(scan, self.recipe), Placement.of(scan.geometry, self.recipe.image_size)
        values = np.array([0, *self.names], dtype=np.uint16)
        found = np.zeros(scan.geometry.shape, dtype=np.uint16)
        for start, pixels in frames.batches(BATCH):
            scores = placement.restore(score(pixels[:, : self.recipe.channels]).float().cpu())
            found[start : start + len(scores)] = values[scores.argmax(dim=1).numpy()]
        return LabelMap(found, scan.geometry, dict(self.names))


def _slice_of(shot: Shot, recipe: Recipe, values: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return a shot's frame (C, S, S) in [0, 1] and the class of each pixel (1, S, S): what covers most of it."""
    frames = Frames(shot.volume, recipe, scan=shot.scan())
    masks = frames.masks(shot.labels, values)[0]
    share, label = masks.max(dim=0, keepdim=True)
    rest = 1 - masks.sum(dim=0, keepdim=True)
    return frames.pixels(0, 1)[0, : recipe.channels], torch.where(share > rest, label + 1, 0).float()


def augmentation(side: int) -> Any:
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
