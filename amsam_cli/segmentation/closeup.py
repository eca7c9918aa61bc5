"""Where to look closer: the part of the scan that most likely holds what the first pass found."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.methods.shape import Shape
from amsam_cli.preprocess import square_window
from amsam_cli.segmentation.scene import Place, Scene
from amsam_cli.volume import Volume

CORE = 0.5
"""Share of the shots' window in which most of the labels lie, where it is in the right place."""
ROOM = 1.2
"""How much wider than the shots' window that of a scan is, whose middle is only guessed."""
ROAMING = 2.0
"""How much further from where the shots have it a label may well lie than where one of its pieces is chosen."""
BEYOND = 2
"""Slices past what was found that are looked at again."""


def place_to_zoom(scene: Scene, logits: Tensor, volume: Volume, zoom: float) -> Place | None:
    """Return the place round where the labels most likely are; None where nothing was found.

    What was found beyond the window is taken for a stray: a window round all strays is the whole slice, and shows
    nothing that the first pass did not see.

    Args:
        scene: the first pass.
        logits: (D, L, s, s), what it found.
        volume: the scan.
        zoom: side in mm of the window in which the shots were seen.
    """
    if not (logits > 0).any():
        return None
    placement = scene.placement
    share = zoom / (placement.height * volume.geometry.spacing[1]) * placement.frame_height / placement.image_size
    row, column = likeliest_middle(logits, CORE * share, scene.sight.together)
    x, y = placement.to_slice(np.array([column, row]) * placement.image_size)
    window = square_window(volume.geometry, (y, x), ROOM * zoom)
    rows, columns = (_part(middle, ROOM * share, logits.shape[-1]) for middle in (row, column))
    depth = torch.nonzero((logits[..., rows, columns] > 0).flatten(1).any(dim=1))[:, 0].tolist()
    first, last = max(0, depth[0] - BEYOND), min(volume.depth, depth[-1] + 1 + BEYOND)
    return Place(first, last - first, window)


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


def _part(middle: float, share: float, size: int) -> slice:
    """Return the pixels, of `size`, of a part of the frame round a middle that is a pixel's."""
    at, reach = int(middle * size), round(share * size / 2)
    return slice(max(0, at - reach), at + reach + 1)
