"""Structures that may overlap, onto one label map that cannot."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

_log = logging.getLogger(__name__)


def paint(values: Mapping[int, int], mask_of: Callable[[int], NDArray[np.bool_]], *, name: str) -> NDArray[np.uint16]:
    """Return one label map of masks painted from the largest to the smallest, so that what lies inside stays visible.

    Args:
        values: number of a structure -> its label value.
        mask_of: gives the mask of a structure, all of one shape; asked twice for each, so that one is held at a time.
        name: the file, for the warning about overlaps.
    """
    sizes = {number: int(mask_of(number).sum()) for number in values}
    labels, covered = np.zeros(mask_of(next(iter(values))).shape, np.uint16), 0
    for number in sorted(sizes, key=lambda each: -sizes[each]):
        mask = mask_of(number)
        covered += int(np.count_nonzero(labels[mask]))
        labels[mask] = values[number]
    if covered:
        _log.warning("'%s': structures overlap in %d voxels; there the smaller one counts", name, covered)
    return labels
