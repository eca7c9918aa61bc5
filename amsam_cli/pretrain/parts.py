"""What amsam's own pretraining is made of that a run can go without, so that what each part brings can be measured."""

from __future__ import annotations

from enum import StrEnum


class Part(StrEnum):
    """A part of the training that is not needed to train at all."""

    LOOK_ALIKES = "look-alikes"
    """Episodes in which other labels look as the target does (`synthesis.py`)."""
    LESIONS = "lesions"
    """Episodes about things that grow anywhere (`lesions.py`)."""
    RIDGE = "ridge"
    """Features taught to be told apart by a line (`ridge.py`)."""
    GUESSES = "guesses"
    """Memories of what is guessed of the query itself, calibrated by the supports (FSSAM's PPG and SCMA)."""
    SLICES = "slices"
    """Queries that are neighbouring slices, followed by the network's own masks."""
