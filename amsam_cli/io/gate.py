"""The input gate: what is wrong with which file, and what to do, before anything is learned or segmented.

A fatal finding stops a run; the others are said aloud.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from amsam_cli.errors import AmsamError, InputError
from amsam_cli.volume import Geometry, Shot, Volume

THICK_MM = 12.0
"""Thicker slices show an organ or two neighbours as one blur."""

THICK_RATIO = 12.0
"""From this ratio of slice distance to pixel size on, neighbouring slices have little in common."""

FINEST_MM, COARSEST_MM = 0.02, 20.0
"""Spacings beyond these are more often metres, micrometres or a lost header than a scan."""

AIR_HU = -500.0
"""CT reaches below this in air; hardly any other scan holds such numbers."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a file.

    Attributes:
        file: its name.
        problem: what is wrong.
        advice: what to do.
        is_fatal: whether nothing can be done with the file.
    """

    file: str
    problem: str
    advice: str
    is_fatal: bool = False

    @classmethod
    def of_error(cls, file: str, err: AmsamError) -> Finding:
        """Return the finding of a file that was refused."""
        return cls(file, err.message, err.hint or "", is_fatal=True)

    def __str__(self) -> str:
        """Return it as a sentence for a warning."""
        return f"'{self.file}' {self.problem}. {self.advice}" if not self.is_fatal else self.problem


def refuse_fatal(findings: Sequence[Finding], *, files: int) -> None:
    """Raise if a finding is fatal: the finding itself if it is alone, else how many there are.

    Raises:
        InputError: a file cannot be used.
    """
    fatal = [finding for finding in findings if finding.is_fatal]
    if len(fatal) == 1:
        raise InputError(fatal[0].problem, fatal[0].advice)
    if fatal:
        raise InputError(
            f"{len(fatal)} of {files} label files cannot be used. The first: {fatal[0].problem}",
            "Correct them, or take them out of the folder; --dry-run lists them all.",
        )


def check_grid(file: str, grid: Geometry, *, axis: int | None = None) -> list[Finding]:
    """Return what is odd about a grid.

    Args:
        file: whose.
        grid: in any axes; pictures have no size and so no odd one.
        axis: the slicing axis; None leaves thickness unjudged.
    """
    if grid.unit == "px":
        return []
    found, spacing = [], grid.spacing
    text = " x ".join(f"{size:.3g}" for size in spacing)
    if min(spacing) < FINEST_MM or max(spacing) > COARSEST_MM:
        found.append(
            Finding(file, f"has voxels of {text} mm, which is suspicious", "Check the unit; headers hold millimetres.")
        )
    if np.array_equal(grid.affine, np.eye(4)) and grid.shape[0] > 1:
        found.append(
            Finding(
                file,
                "has a header that gives neither spacing nor orientation",
                "Volumes in ml and distances in mm will mean voxels; export the scan again from DICOM.",
            )
        )
    if axis is not None and grid.shape[axis] > 1:
        across = min(size for other, size in enumerate(spacing) if other != axis)
        if spacing[axis] > THICK_MM or spacing[axis] > THICK_RATIO * across:
            found.append(
                Finding(
                    file,
                    f"has slices {spacing[axis]:.3g} mm apart of {across:.3g} mm pixels",
                    "Neighbouring slices have little in common; annotate more of them, and look at every result.",
                )
            )
    return found


def check_scan(file: str, volume: Volume) -> None:
    """Refuse a scan in which nothing can be told apart.

    Raises:
        InputError: it holds one value only.
    """
    low, high = volume.range
    if low == high:
        raise InputError(
            f"'{file}' is constant: every voxel holds {low:g}.", "Export the scan again; this one shows nothing."
        )


def check_shots(shots: Iterable[Shot]) -> list[Finding]:
    """Return what is odd about the scans that were chosen to learn from.

    Raises:
        InputError: a scan holds one value only.
    """
    scans: dict[str, Volume] = {}
    for shot in shots:
        scans.setdefault(shot.origin.rpartition(":")[0] or shot.origin, shot.volume)
    for file, volume in scans.items():
        check_scan(file, volume)
    modalities = check_modalities((name, each.source.modality if each.source else "") for name, each in scans.items())
    return modalities or check_values([(file, each.range) for file, each in scans.items() if not each.is_picture])


def check_values(scans: Sequence[tuple[str, tuple[float, float]]]) -> list[Finding]:
    """Return whether scans, as (file, lowest and highest value), are of one kind by their values."""
    reaching = {file: low < AIR_HU for file, (low, _) in scans}
    if len(set(reaching.values())) < 2:
        return []
    odd = min((True, False), key=lambda kind: sum(value == kind for value in reaching.values()))
    file = next(name for name, value in reaching.items() if value == odd)
    said = "reaches below -500 as CT does, the others do not" if odd else "does not reach below -500, as the others do"
    return [Finding(file, said, "Are modalities mixed? Adapt to each on its own.")]


def check_modalities(scans: Iterable[tuple[str, str]]) -> list[Finding]:
    """Return whether (file, DICOM modality) mix modalities; "" tells nothing."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    for file, modality in scans:
        if modality:
            by_kind[modality].append(file)
    if len(by_kind) < 2:
        return []
    rarest = min(by_kind, key=lambda kind: len(by_kind[kind]))
    others = ", ".join(kind for kind in by_kind if kind != rarest)
    return [Finding(by_kind[rarest][0], f"is {rarest}, other scans are {others}", "Adapt to each modality on its own.")]


def check_doubles(images: Sequence[tuple[Path, str]]) -> list[Finding]:
    """Return which (image file, patient) are one image under two names, which would pass for two patients."""
    by_size: dict[int, list[tuple[Path, str]]] = defaultdict(list)
    for path, patient in images:
        if path.is_file():
            by_size[path.stat().st_size].append((path, patient))
    found = []
    for group in by_size.values():
        seen: dict[str, tuple[Path, str]] = {}
        for path, patient in group if len(group) > 1 else ():
            with path.open("rb") as file:
                first = seen.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), (path, patient))
            if first[0] != path and first[1] != patient:
                found.append(
                    Finding(
                        path.name,
                        f"is the same image as '{first[0].name}', and counts as another patient",
                        "Take one of them out, or name the patient by --group, else the forecast is too good.",
                    )
                )
    return found
