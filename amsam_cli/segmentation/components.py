"""A label in one piece or several, and with holes or without, as the shots showed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from amsam_cli.methods.shape import Shape
from amsam_cli.preprocess import Placement
from amsam_cli.volume import LabelMap

SPECK = 0.05
"""Share of the largest piece below which another one is left out, where a label comes in several."""
RIVAL = 0.2
"""Share of the largest piece from which another one, by being surer, may be the label in its place."""
SLICES = 64
"""Slices searched at a time."""
CORNERS = np.ones((3, 3, 3))
"""Voxels that touch by a corner belong together."""
IN_PLANE = np.array([[[0, 0, 0]] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0, 0, 0]] * 3])
"""The neighbours of a voxel on its slice."""


@dataclass(frozen=True, slots=True)
class Witness:
    """What is asked where a piece must be chosen, or a label for a hole.

    Attributes:
        log_odds: a label and some slices -> the logits (n, H, W) by which it was found there.
        placement: how the slices lie in the frames that the shots were seen in.
    """

    log_odds: Callable[[int, slice], NDArray[np.float32]]
    placement: Placement


def tidy(
    labels: LabelMap,
    shapes: Mapping[int, Shape],
    together: Shape,
    probabilities: Mapping[int, NDArray[np.float16]],
    witness: Witness,
) -> LabelMap:
    """Return `labels` without stray pieces and without holes that the shots do not show.

    Of a label that comes in one piece, the likeliest is kept, by its evidence and by where the shots have the label.
    The evidence is the sum of squared log-odds: a large patch that is half believed must not displace a small one that
    is sure, nor a sure speck the organ. Holes are those of single slices that hold background: what all labels together
    enclose becomes the likeliest of them, before pieces are chosen, what one encloses becomes that one, after. The
    probabilities, in place, follow: zero in strays, the background's share in holes.

    Args:
        labels: (D, H, W).
        shapes: label value -> how the shots show the label.
        together: how they show all labels as one.
        probabilities: label value -> (D, H, W), as far as they were asked for.
        witness: asked only where a piece has rivals, or where the labels together have holes.
    """
    kept = labels.data.copy()
    if not together.hollow:
        _fill_together(kept, [*shapes], probabilities, witness)
    for value, box in _boxes(kept):
        shape, likely = shapes[value], probabilities.get(value)
        stray = _strays(kept[box] == value, value, box, shape, witness)
        kept[box][stray] = 0
        if likely is not None:
            likely[box][stray] = 0
        if shape.hollow:
            continue
        holes = _enclosed(kept[box] == value, kept[box])
        kept[box][holes] = value
        if likely is not None:
            others = [other[box][holes] for key, other in probabilities.items() if key != value]
            likely[box][holes] = 1 - np.sum(others, axis=0)
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


def _strays(
    mask: NDArray[np.bool_], value: int, box: Sequence[slice], shape: Shape, witness: Witness
) -> NDArray[np.bool_]:
    """Return the pieces of a label's mask (d, h, w), in a box of the scan, that are to go."""
    pieces, count = ndimage.label(mask, structure=CORNERS)
    if count < 2:
        return np.zeros_like(mask)
    sizes = np.bincount(pieces.ravel())[1:]
    chosen = np.flatnonzero(sizes >= (SPECK if shape.several else RIVAL) * sizes.max())
    if len(chosen) > 1 and not shape.several:
        evidence = _evidence(pieces, value, box, witness.log_odds)[chosen]
        nearness = shape.nearness(_middles(pieces, chosen + 1, box, witness.placement))
        chosen = chosen[[np.argmax(np.log(evidence.clip(1e-6)) + nearness)]]
    return mask & ~np.isin(pieces, chosen + 1)


def _enclosed(mask: NDArray[np.bool_], labels: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return the background of `labels` (d, h, w) that a mask encloses on a slice."""
    return np.asarray(ndimage.binary_fill_holes(mask, structure=IN_PLANE) & (labels == 0))


def _fill_together(
    kept: NDArray[np.uint16],
    values: Sequence[int],
    probabilities: Mapping[int, NDArray[np.float16]],
    witness: Witness,
) -> None:
    """Let what the labels together enclose in (D, H, W), in place, become the likeliest of them.

    Only the box round all of them is searched: nothing outside it is enclosed, and large slices take seconds.
    """
    boxes = [box for _, box in _boxes(kept)]
    if not boxes:
        return
    depth, rows, columns = (
        slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True)
    )
    for start in range(depth.start, depth.stop, SLICES):
        slices = slice(start, min(start + SLICES, depth.stop))
        part = kept[slices, rows, columns]
        holes = _enclosed(part > 0, part)
        if not holes.any():
            continue
        found = [witness.log_odds(value, slices)[:, rows, columns][holes] for value in values]
        part[holes] = np.array(values)[np.argmax(found, axis=0)]
        likely = [each[slices, rows, columns] for each in probabilities.values()]
        whole = np.sum([each[holes].astype(np.float32) for each in likely], axis=0).clip(1e-6)
        for each in likely:
            each[holes] = each[holes].astype(np.float32) / whole


def _middles(
    pieces: NDArray[np.int32], numbers: NDArray[np.int64], box: Sequence[slice], placement: Placement
) -> NDArray[np.float64]:
    """Return the middle (row, column) of some pieces (d, h, w), as shares of the frame, (n, 2)."""
    middles = np.array(ndimage.center_of_mass(np.broadcast_to(1, pieces.shape), pieces, numbers))[:, 1:]
    voxels = middles + np.array([box[1].start, box[2].start]) + 0.5
    return placement.to_frame(voxels[:, ::-1])[:, ::-1] / placement.image_size


def _evidence(
    pieces: NDArray[np.int32],
    value: int,
    box: Sequence[slice],
    log_odds: Callable[[int, slice], NDArray[np.float32]],
) -> NDArray[np.float64]:
    """Return the sum of squared log-odds in each of the pieces (d, h, w) of a label that lie in a box of the scan."""
    total = np.zeros(int(pieces.max()) + 1)
    depth, rows, columns = box
    for start in range(0, len(pieces), SLICES):
        part = pieces[start : start + SLICES]
        first = depth.start + start
        found = log_odds(value, slice(first, first + len(part)))[:, rows, columns]
        total += np.bincount(part.ravel(), weights=np.square(found).ravel(), minlength=len(total))
    return total[1:]
