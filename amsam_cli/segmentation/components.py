"""Which pieces of a label are kept: the best supported alone, or all that are not specks, as the shots showed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from amsam_cli.volume import LabelMap

SPECK = 0.05
"""Share of the largest piece below which another one is left out, where a label comes in several."""
RIVAL = 0.2
"""Share of the largest piece from which another one, by being surer, may be the label in its place."""
SLICES = 64
"""Slices searched at a time."""
CORNERS = np.ones((3, 3, 3))
"""Voxels that touch by a corner belong together."""

LogOdds = Callable[[int, slice], NDArray[np.float32]]
"""The logits (n, H, W) by which a label was found on some slices of a scan."""


def tidy(
    labels: LabelMap,
    several: Mapping[int, bool],
    probabilities: Mapping[int, NDArray[np.float16]],
    log_odds: LogOdds,
) -> LabelMap:
    """Return `labels` without stray pieces; the probabilities of what was taken out become zero, in place.

    Of a label that comes in one piece, the one whose squared log-odds sum to most is kept: a large patch that is half
    believed must not displace a small one that is sure, nor a sure speck the organ.

    Args:
        labels: (D, H, W).
        several: label value -> whether the label comes in several pieces.
        probabilities: label value -> (D, H, W), as far as they were asked for.
        log_odds: of a label on some slices; asked for only where a piece has rivals.
    """
    kept = labels.data.copy()
    for value, box in _boxes(labels.data):
        pieces, count = ndimage.label(labels.data[box] == value, structure=CORNERS)
        if count < 2:
            continue
        sizes = np.bincount(pieces.ravel())[1:]
        chosen = np.flatnonzero(sizes >= (SPECK if several.get(value, True) else RIVAL) * sizes.max())
        if len(chosen) > 1 and not several.get(value, True):
            worth = _evidence(pieces, value, box, log_odds)
            chosen = chosen[[np.argmax(worth[chosen])]]
        stray = (pieces > 0) & ~np.isin(pieces, chosen + 1)
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


def _evidence(pieces: NDArray[np.int32], value: int, box: Sequence[slice], log_odds: LogOdds) -> NDArray[np.float64]:
    """Return the sum of squared log-odds in each of the pieces (d, h, w) of a label that lie in a box of the scan."""
    total = np.zeros(int(pieces.max()) + 1)
    depth, rows, columns = box
    for start in range(0, len(pieces), SLICES):
        part = pieces[start : start + SLICES]
        first = depth.start + start
        found = log_odds(value, slice(first, first + len(part)))[:, rows, columns]
        total += np.bincount(part.ravel(), weights=np.square(found).ravel(), minlength=len(total))
    return total[1:]
