"""Small scans made in memory: a bright ball, and a dim one beside it, in noise; a new patient for every seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from amsam_cli.volume import AxisOrder, Geometry, LabelMap, Shot, Source, Volume

BALL, OTHER = 1, 2
NAMES = {BALL: "ball", OTHER: "other"}


def ball_scan(seed: int = 0, *, depth: int = 9, side: int = 48, margin: int = 0) -> tuple[Volume, LabelMap]:
    """Return a scan with spacing 3 x 1 x 1 mm and the labels of its two balls.

    It is (1, D, side, side), or larger by a `margin` of noise on every side of its slices.
    """
    rng = np.random.default_rng(seed)
    d, h, w = np.indices((depth, side, side)).astype(np.float32)
    middle = (depth - 1) / 2
    centre_h, centre_w = side * rng.uniform(0.4, 0.6, 2)
    first = ((d - middle) * 3) ** 2 + (h - centre_h) ** 2 + (w - centre_w + side / 5) ** 2 < (side / 5) ** 2
    second = ((d - middle) * 3) ** 2 + (h - centre_h) ** 2 + (w - centre_w - side / 5) ** 2 < (side / 7) ** 2
    data = rng.normal(100, 10, first.shape) + 400 * first + 150 * second
    labels = np.where(first, BALL, np.where(second, OTHER, 0)).astype(np.uint16)
    if margin:
        around = ((0, 0), (margin, margin), (margin, margin))
        noise = rng.normal(100, 10, (depth, side + 2 * margin, side + 2 * margin))
        noise[:, margin:-margin, margin:-margin] = data
        data, labels = noise, np.pad(labels, around)
    geometry = Geometry(data.shape, np.array([[0, 0, -1, 40], [0, -1, 0, 30], [3, 0, 0, -20], [0, 0, 0, 1.0]]))
    source = Source(Path(f"scan_{seed}.nii.gz"), "nifti", geometry, AxisOrder())
    volume = Volume(data.astype(np.float32)[None], geometry, (float(data.min()), float(data.max())), source)
    return volume, LabelMap(labels, geometry, NAMES)


def ball_shot(seed: int = 0, *, index: int = 4, margin: int = 0) -> Shot:
    """Return one annotated slice of `ball_scan(seed)`."""
    volume, labels = ball_scan(seed, margin=margin)
    here = volume.slice(index), labels.slice(index)
    position = index / (volume.depth - 1)
    return Shot(*here, lambda: volume, f"scan_{seed}.nii.gz:{index}", f"patient_{seed}", position)
