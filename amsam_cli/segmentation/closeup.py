"""Where to look closer: the part of the scan that holds what the first pass found."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from amsam_cli.preprocess import zoom_window
from amsam_cli.segmentation.scene import Place, Scene
from amsam_cli.volume import Volume

STRAY = 0.2
"""Share of the largest component below which another one is taken for a stray."""
BEYOND = 2
"""Slices past what was found that are looked at again."""


def place_to_zoom(scene: Scene, logits: Tensor, volume: Volume, zoom: float) -> Place | None:
    """Return the place round all that was found in a scene of the whole scan; None where nothing was.

    Args:
        scene: the first pass.
        logits: (D, L, s, s), what it found.
        volume: the scan.
        zoom: least side of the window in mm.
    """
    found = _without_strays(np.asarray((logits > 0).any(dim=1)))
    if not found.any():
        return None
    depth = np.flatnonzero(np.any(found, axis=(1, 2)))
    first, last = max(0, int(depth[0]) - BEYOND), min(volume.depth, int(depth[-1]) + 1 + BEYOND)
    flat = np.asarray(np.any(found, axis=0), np.float32)[None, None]
    region = np.asarray(scene.placement.restore(torch.from_numpy(flat))[0, 0] > 0.5)
    window = zoom_window(volume.geometry, region, zoom)
    return Place(first, last - first, window) if window else None


def _without_strays(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the components (D, h, w) that are not much smaller than the largest."""
    components, count = ndimage.label(found, structure=np.ones((3, 3, 3)))
    if count < 2:
        return found
    sizes = np.bincount(components.ravel())[1:]
    kept = np.flatnonzero(sizes >= STRAY * sizes.max()) + 1
    return np.isin(components, kept)
