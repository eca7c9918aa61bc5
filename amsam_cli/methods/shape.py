"""What masks look like in the shots: in one piece or several, with holes or without, and where."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

SECOND = 0.1
"""Share of a mask's first piece that makes another one a second piece rather than a speck."""
HOLE = 0.01
"""Share of a mask that its holes must have to be holes rather than pixels left out."""
ELSEWHERE = 0.08
"""How far from where the shots have it a label may well be in another patient, as a share of the frame."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the masks of one label, or of all labels together, look like, as far as the shots tell.

    Attributes:
        several: whether they come in several pieces.
        hollow: whether they may have holes.
        row: where their middle lies from top to bottom, as a share of the frame.
        column: the same from left to right.
        spread: how far from there it may well lie, as a share of the frame; None where the shots do not tell.
    """

    several: bool = True
    hollow: bool = True
    row: float = 0.5
    column: float = 0.5
    spread: float | None = None

    @property
    def has_place(self) -> bool:
        """Whether the shots have the mask in one place, to within what two patients differ anyway."""
        return self.spread is not None and self.spread <= math.sqrt(2) * ELSEWHERE

    def nearness(self, middles: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log-likelihood (n,), up to a constant, of a mask having its middle at (row, column) (n, 2).

        >>> Shape(row=0.5, column=0.5, spread=0.1).nearness(np.array([[0.5, 0.5], [0.5, 0.7]])).round(3)
        array([-0., -2.])
        """
        if self.spread is None:
            return np.zeros(len(middles))
        far = np.square(middles - (self.row, self.column)).sum(axis=1)
        return np.asarray(-far / (2 * self.spread**2))


def learn_shape(masks: Tensor) -> Shape:
    """Return what soft masks (K, S, S) of the shots look like. Fewer than two that show anything do not tell."""
    shown = [own for own in (masks > 0.5).cpu().numpy() if own.any()]
    if len(shown) < 2:
        return Shape()
    middles = (np.array([ndimage.center_of_mass(own) for own in shown]) + 0.5) / masks.shape[-1]
    row, column = middles.mean(axis=0)
    spread = math.sqrt(float(middles.var(axis=0, ddof=1).mean()) + ELSEWHERE**2)
    return Shape(
        several=any(map(_is_several, shown)),
        hollow=any(map(_is_hollow, shown)),
        row=round(float(row), 4),
        column=round(float(column), 4),
        spread=round(spread, 4),
    )


def _is_several(mask: NDArray[np.bool_]) -> bool:
    """Return whether a mask (S, S) has a second piece of at least a tenth of its first."""
    pieces, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.sort(np.bincount(pieces.ravel())[1:])
    return len(sizes) > 1 and bool(sizes[-2] >= SECOND * sizes[-1])


def _is_hollow(mask: NDArray[np.bool_]) -> bool:
    """Return whether a mask (S, S), not empty, has holes of at least a hundredth of it."""
    holes = ndimage.binary_fill_holes(mask) & ~mask
    return bool(holes.sum() >= HOLE * mask.sum())
