"""A random forest that classifies pixels by what lies around them at several scales: the classic of few annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor

from amsam_cli.bench.base import Query
from amsam_cli.bench.slices import Lesson, augmentation
from amsam_cli.models.base import OnStep
from amsam_cli.report import Json
from amsam_cli.volume import LabelMap, Shot

VERSION = "1"
SCALES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Standard deviations in pixels of the frame."""
LEAF = 10
VIEWS = 8
"""Augmented views of each slice."""
PER_LABEL, OF_BACKGROUND = 1_500, 6_000
"""Pixels of a view that enter: background is the rule, but not forty to one as in the slices."""


@dataclass(frozen=True, slots=True)
class PixelForest:
    """scikit-learn's forest on ilastik's kind of features.

    Attributes:
        name: in tables.
        image_size: frame side S in pixels.
        trees: how many.
        smoothing: standard deviation in pixels by which class probabilities are smoothed before the highest wins.
        place: whether row and column are features too.
    """

    name: str = "forest"
    image_size: int = 256
    trees: int = 100
    smoothing: float = 2.0
    place: bool = True

    @property
    def version(self) -> str:
        """Of this file."""
        return VERSION

    @property
    def settings(self) -> Mapping[str, Json]:
        """Features and forest."""
        return {
            "features": "Gaussian, gradient magnitude, Laplacian, Hessian eigenvalues and local spread of each channel",
            "place": self.place,
            "scales_px": list(SCALES),
            "image_size": self.image_size,
            "trees": self.trees,
            "views_of_each_slice": VIEWS,
            "pixels_of_a_view": f"{PER_LABEL} of each label, {OF_BACKGROUND} of background",
            "min_samples_leaf": LEAF,
            "smoothing_px": self.smoothing,
        }

    def fit(self, shots: Sequence[Shot], *, seed: int, on_step: OnStep | None = None) -> TrainedForest:
        """Return the forest of the pixels of exactly these slices."""
        lesson = Lesson.of(shots, self.image_size)
        augment = augmentation(self.image_size)
        augment.set_random_state(seed=seed)
        chance = np.random.default_rng(seed)
        rows, classes = [], []
        for number in range(VIEWS * len(shots)):
            pick = number % len(shots)
            view = {"image": lesson.pixels[pick], "label": lesson.classes[pick]}
            view = augment(view) if number >= len(shots) else view
            target = np.asarray(view["label"]).astype(np.int64).ravel()
            picked = _picked(target, chance)
            rows.append(features_of(np.asarray(view["image"]), place=self.place)[picked])
            classes.append(target[picked])
            if on_step:
                on_step(self.name, number + 1, VIEWS * len(shots))
        forest = RandomForestClassifier(self.trees, min_samples_leaf=LEAF, random_state=seed, n_jobs=-1)
        return TrainedForest(forest.fit(np.concatenate(rows), np.concatenate(classes)), lesson, self)


@dataclass(frozen=True, slots=True, eq=False)
class TrainedForest:
    """A forest, the lesson it learned, and how."""

    forest: Any
    lesson: Lesson
    method: PixelForest

    def segment(self, query: Query) -> LabelMap:
        """Return the likeliest label at each voxel of the scan's own grid."""
        return self.lesson.read(query.volume, self._probabilities)

    def _probabilities(self, pixels: Tensor) -> Tensor:
        side = pixels.shape[-1]
        scores = np.zeros((len(pixels), 1 + len(self.lesson.names), side, side), dtype=np.float32)
        for frame, score in zip(pixels.numpy(), scores, strict=True):
            likely = self.forest.predict_proba(features_of(frame, place=self.method.place)).T.reshape(-1, side, side)
            for known, map_ in zip(self.forest.classes_, likely, strict=True):
                score[known] = ndimage.gaussian_filter(map_, self.method.smoothing)
        return torch.from_numpy(scores)


def features_of(frame: NDArray[np.float32], *, place: bool) -> NDArray[np.float32]:
    """Return what describes each pixel of a frame (C, S, S), (S * S, features) float32."""
    maps = [feature for channel in frame for scale in SCALES for feature in _at_scale(channel, scale)]
    side = frame.shape[-1]
    places = np.mgrid[0:side, 0:side].astype(np.float32) / side if place else ()
    return np.stack([*frame, *maps, *places]).reshape(-1, side * side).T.astype(np.float32)


def _at_scale(channel: NDArray[np.float32], scale: float) -> list[NDArray[np.float32]]:
    smooth = ndimage.gaussian_filter(channel, scale)
    spread = np.sqrt(np.maximum(ndimage.gaussian_filter(channel**2, scale) - smooth**2, 0))
    down, across, both = (ndimage.gaussian_filter(channel, scale, order=o) for o in ((2, 0), (0, 2), (1, 1)))
    mean, apart = (down + across) / 2, np.sqrt(((down - across) / 2) ** 2 + both**2)
    curvatures = [scale**2 * (mean + apart), scale**2 * (mean - apart)]
    return [smooth, ndimage.gaussian_gradient_magnitude(channel, scale), scale**2 * 2 * mean, *curvatures, spread]


def _picked(classes: NDArray[np.int64], chance: np.random.Generator) -> NDArray[np.int64]:
    """Return the pixels that enter."""
    parts = [np.flatnonzero(classes == each) for each in np.unique(classes)]
    most = [PER_LABEL if classes[part[0]] else OF_BACKGROUND for part in parts]
    return np.concatenate([chance.permutation(part)[:count] for part, count in zip(parts, most, strict=True)])
