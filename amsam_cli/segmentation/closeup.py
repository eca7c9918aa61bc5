"""Where to look closer: the part of the scan that holds what the first pass found, or most likely does."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.methods.shape import Shape
from amsam_cli.preprocess import square_window, zoom_window
from amsam_cli.segmentation.scene import Place, Scene
from amsam_cli.volume import Geometry, Volume, Window

STRAY = 0.2
"""Share of the largest component below which another one is taken for a stray."""
ROOM = 1.2
"""How much wider than the window in which the shots were seen that of a scan may be: wider, and it is another view."""
CORE = 0.5
"""Share of the shots' window in which most of the labels lie, where it is in the right place."""
ROAMING = 2.0
"""How much further from where the shots have it a label may well lie than where one of its pieces is chosen."""
BEYOND = 2
"""Slices past what was found that are looked at again."""


def place_to_zoom(scene: Scene, logits: Tensor, volume: Volume, zoom: float | None) -> Place | None:
    """Return the place round all that was found in a scene of the whole scan; None where nothing was.

    Where that is much wider than what the shots were seen in, strays have a part in it, and it shows little that the
    first pass did not see: then it is the place where the labels most likely are, if they have a place.

    Args:
        scene: the first pass.
        logits: (D, L, s, s), what it found.
        volume: the scan.
        zoom: side in mm of the window in which the shots were seen; None = whole slices.
    """
    found = np.asarray((logits > 0).any(dim=1))
    if not found.any():
        return None
    depth = np.flatnonzero(np.any(found, axis=(1, 2)))
    first, last = max(0, int(depth[0]) - BEYOND), min(volume.depth, int(depth[-1]) + 1 + BEYOND)
    if zoom is None:
        return Place(first, last - first, is_closer=True)
    window = _round_all(scene, found, volume.geometry, zoom)
    if window and scene.sight.together.has_place and _side(window, volume.geometry) > ROOM * zoom:
        window = _likeliest(scene, logits, volume.geometry, zoom)
    return Place(first, last - first, window, is_closer=True) if window else None


def _round_all(scene: Scene, found: NDArray[np.bool_], geometry: Geometry, zoom: float) -> Window | None:
    """Return the window round what was found (D, s, s), small strays apart; None where that fills no voxel."""
    flat = np.asarray(np.any(_without_strays(found), axis=0), np.float32)[None, None]
    region = np.asarray(scene.placement.restore(torch.from_numpy(flat))[0, 0] > 0.5)
    return zoom_window(geometry, region, zoom)


def _side(window: Window, geometry: Geometry) -> float:
    """Return the longer side of a window in mm."""
    return max(window.height * geometry.spacing[1], window.width * geometry.spacing[2])


def _likeliest(scene: Scene, logits: Tensor, geometry: Geometry, zoom: float) -> Window:
    """Return the window, with some room, round the likeliest place of the labels (D, L, s, s)."""
    placement = scene.placement
    share = zoom / (placement.height * geometry.spacing[1]) * placement.frame_height / placement.image_size
    row, column = likeliest_middle(logits, CORE * share, scene.sight.together)
    x, y = placement.to_slice(np.array([column, row]) * placement.image_size)
    return square_window(geometry, (y, x), ROOM * zoom)


def likeliest_middle(logits: Tensor, side: float, together: Shape) -> tuple[float, float]:
    """Return the middle (row, column) of the square that most likely holds the labels, as shares of the frame.

    By the share of each label's evidence that lies in it on all slices, every label counting alike, and by how near
    it is to where the shots have them. The evidence is the square of positive logits: a large patch that is half
    believed must not outweigh a small one that is sure.

    Args:
        logits: (D, L, s, s), positive somewhere.
        side: of the square, as a share of the frame.
        together: what all labels together look like in the shots.
    """
    evidence = torch.stack([own.float().clamp_min(0).square().sum(dim=0) for own in logits.unbind(1)])  # (L, s, s)
    shares = (evidence / evidence.sum(dim=(1, 2), keepdim=True).clamp_min(1e-6)).mean(dim=0)
    size = shares.shape[-1]
    reach = min(round(side * size / 2), size - 1)
    width = 2 * reach + 1
    held = F.avg_pool2d(shares[None, None], width, stride=1, padding=reach)[0, 0] * width**2
    axis = (np.arange(size) + 0.5) / size
    middles = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    likely = np.log(np.asarray(held).clip(1e-30)).ravel() + together.nearness(middles) / ROAMING**2
    row, column = middles[int(likely.argmax())]
    return float(row), float(column)


def _without_strays(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the components (D, h, w) that are not much smaller than the largest."""
    components, count = ndimage.label(found, structure=np.ones((3, 3, 3)))
    if count < 2:
        return found
    sizes = np.bincount(components.ravel())[1:]
    kept = np.flatnonzero(sizes >= STRAY * sizes.max()) + 1
    return np.isin(components, kept)
