"""Which pieces of a label are kept: the largest alone, or all that are not mere specks, as the shots showed it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from amsam_cli.volume import LabelMap

SPECK = 0.05
"""Share of the largest piece below which another one is left out, where a label comes in several."""
SLICES = 64
"""Slices searched at a time."""
CORNERS = np.ones((3, 3, 3))
"""Voxels that touch by a corner belong together."""


def tidy(labels: LabelMap, several: Mapping[int, bool], probabilities: Mapping[int, NDArray[np.float16]]) -> LabelMap:
    """Return `labels` without stray pieces; the probabilities of what was taken out become zero, in place.

    Args:
        labels: (D, H, W).
        several: label value -> whether the label comes in several pieces.
        probabilities: label value -> (D, H, W), as far as they were asked for.
    """
    kept = labels.data.copy()
    for value, box in _boxes(labels.data):
        stray = _strays(labels.data[box] == value, several.get(value, True))
        kept[box][stray] = 0
        if value in probabilities:
            probabilities[value][box][stray] = 0
    return LabelMap(kept, labels.geometry, labels.names)


def _boxes(data: NDArray[np.uint16]) -> list[tuple[int, tuple[slice, ...]]]:
    """Return the values that occur, each with the box round it; some slices at a time, since copies are large."""
    lows: dict[int, NDArray[np.int64]] = {}
    highs: dict[int, NDArray[np.int64]] = {}
    for start in range(0, len(data), SLICES):
        found = ndimage.find_objects(data[start : start + SLICES].astype(np.int32))
        for value, box in enumerate(found, start=1):
            if box is not None:
                low = np.array([box[0].start + start, box[1].start, box[2].start])
                high = np.array([box[0].stop + start, box[1].stop, box[2].stop])
                lows[value] = np.minimum(lows.get(value, low), low)
                highs[value] = np.maximum(highs.get(value, high), high)
    return [(value, tuple(map(slice, lows[value], highs[value]))) for value in sorted(lows)]


def _strays(mask: NDArray[np.bool_], is_several: bool) -> NDArray[np.bool_]:
    """Return the pieces of a mask (d, h, w) that are to go."""
    pieces, count = ndimage.label(mask, structure=CORNERS)
    if count < 2:
        return np.zeros_like(mask)
    sizes = np.bincount(pieces.ravel())[1:]
    floor = SPECK * sizes.max() if is_several else sizes.max()
    small = np.flatnonzero(sizes < floor) + 1
    return np.asarray(np.isin(pieces, small))
