"""Which ways of looking take part in a segmentation: the modes a user chooses, the axes a benchmark varies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from amsam_cli.methods.prompts import Detect

Mode = Literal["prior", "slice", "fssam", "track", "full"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to segment.

    Attributes:
        prior: whether the prior, cut at its threshold, is a mask of its own.
        slices: whether each slice is decoded alone, from automatic prompts and learned ones (AM-SAM).
        supports: whether each slice is decoded from the shots in memory (FSSAM's setting).
        tracks: whether masks are carried from key slices through the volume (SAM 2).
        recalls_supports: whether the shots stay in memory while a mask is carried.
        nearest_supports: how many shots are remembered for each slice, those most like it; None = all.
        only_tracks: whether nothing but what was carried counts, once there is something to carry.
        pseudo: whether each slice's own prior is remembered beside the shots (FSSAM's pseudo memory).
        refines: whether that memory is refined (IMR).
        calibrates: whether attention to the scan's own memories is calibrated by the shots (SCMA).
        excludes: whether a mask enters memory without the pixels that another label has a better claim to.
        is_careful: whether doubtful masks stay out of memory, and a label is no longer followed past its end.
        zooms: whether what was found is looked at again, closer, where the adapter knows how its shots look so.
        tidies: whether stray pieces are left out, as the shots say in how many pieces a label comes.
        asks_back: whether the shots are segmented from the result, to judge it.
        probabilities: whether to return the probability of each label at each voxel too.
        max_memory_gib: the working set past which features go to disk; None = half of the memory that is free.
        detect: finds boxes in the place of the prior (AM-SAM's detector); None = the prior's own prompts.
        extents: label value -> (first, last) slice it can be on, both included, where that is known beforehand.
    """

    prior: bool = True
    slices: bool = True
    supports: bool = True
    tracks: bool = True
    recalls_supports: bool = True
    nearest_supports: int | None = None
    only_tracks: bool = False
    pseudo: bool = False
    refines: bool = False
    calibrates: bool = False
    excludes: bool = False
    is_careful: bool = True
    zooms: bool = True
    tidies: bool = True
    asks_back: bool = True
    probabilities: bool = False
    max_memory_gib: float | None = None
    detect: Detect | None = None
    extents: Mapping[int, tuple[int, int]] | None = None

    @property
    def is_full(self) -> bool:
        """Whether every way of looking takes part."""
        return self.prior and self.slices and self.supports and self.tracks

    def alone(self) -> Plan:
        """Return the plan that decodes each slice once and leaves the masks as they are: AM-SAM as published."""
        return replace(self, prior=False, supports=False, tracks=False, zooms=False, tidies=False)

    @classmethod
    def of(cls, mode: Mode, *, probabilities: bool = False, max_memory_gib: float | None = None) -> Plan:
        """Return the plan of a mode.

        prior: the prior alone. slice: slices alone, AM-SAM. fssam: the shots and each slice's refined pseudo memory,
        calibrated, without propagation. track: one key slice per label carried by plain SAM 2. full: what does best.
        """
        chosen = {
            "prior": cls(slices=False, supports=False, tracks=False, zooms=False),
            "slice": cls(prior=False, supports=False, tracks=False, zooms=False),
            "fssam": cls(
                prior=False, slices=False, tracks=False, zooms=False, pseudo=True, refines=True, calibrates=True
            ),
            "track": cls(prior=False, recalls_supports=False, only_tracks=True, zooms=False),
            "full": cls(),
        }[mode]
        return replace(chosen, probabilities=probabilities, max_memory_gib=max_memory_gib)
