"""Annotated slices: every one that the user's label files hold, read only when chosen."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amsam_cli.errors import InputError
from amsam_cli.io.axes import axis_order, plane_of_axis, plane_of_volume, sparse_axis
from amsam_cli.io.gate import Finding, check_doubles, check_grid, refuse_fatal
from amsam_cli.io.pairs import Pair, find_pairs, read_dataset
from amsam_cli.io.reading import (
    HIGHEST_LABEL,
    occurring_values,
    oriented_labels,
    placed_labels,
    read_grid,
    read_volume,
)
from amsam_cli.volume import Geometry, LabelMap, Plane, Shot, Volume

_log = logging.getLogger(__name__)


class Scans:
    """Reads scans and label maps in one plane, and keeps the latest few, as shots of one scan come together."""

    def __init__(self, plane: Plane, names: Mapping[int, str]) -> None:
        self._plane, self._names = plane, names
        self._volume = lru_cache(maxsize=2)(self._read_volume)
        self._labels = lru_cache(maxsize=2)(self._read_labels)

    def volume(self, pair: Pair) -> Volume:
        """Return the whole scan of `pair`."""
        return self._volume(pair)

    def labels(self, pair: Pair) -> LabelMap:
        """Return the whole label map of `pair`, on the grid of its scan."""
        return self._labels(pair)

    def _read_volume(self, pair: Pair) -> Volume:
        return read_volume(pair.image, self._plane, series=pair.series)

    def _read_labels(self, pair: Pair) -> LabelMap:
        grid = read_grid(pair.image, series=pair.series)
        stored, placed = placed_labels(pair.labels, grid)
        return oriented_labels(stored, placed.values, self._plane, self._names)


@dataclass(frozen=True, eq=False)
class Candidate:
    """An annotated slice that `adapt` may learn from.

    Attributes:
        pair: its image and label file.
        index: which slice, in the canonical orientation.
        depth: how many slices the scan has.
        areas: label value -> pixels of it in this slice.
        origin: "case_03.nii.gz:41", the index in the file's own stored order; no index for a picture.
        plane: the slicing plane, one for the whole set.
    """

    pair: Pair
    index: int
    depth: int
    areas: Mapping[int, int]
    origin: str
    plane: Plane
    scans: Scans = field(repr=False)

    @property
    def position(self) -> float:
        """Where in the scan the slice lies, 0 first to 1 last; one half in a scan of one slice."""
        return self.index / (self.depth - 1) if self.depth > 1 else 0.5

    def read(self) -> Shot:
        """Return the slice with its annotation.

        Raises:
            InputError: the image cannot be read.
        """
        volume, labels = self.scans.volume(self.pair), self.scans.labels(self.pair)
        whole = partial(self.scans.volume, self.pair)
        here = volume.slice(self.index), labels.slice(self.index)
        return Shot(*here, whole, self.origin, self.pair.patient, self.position)


@dataclass(frozen=True, eq=False)
class Survey:
    """What one label file holds, seen along each of its three axes.

    Attributes:
        pair: the file and its image.
        grid: the image's grid, file axes, on which the labels were brought.
        values: label values that occur, ascending.
        pixels: per file axis (L, n) int, the pixels of each label in each slice across it.
    """

    pair: Pair
    grid: Geometry
    values: tuple[int, ...]
    pixels: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]

    def plane(self) -> tuple[bool, Plane]:
        """Return the plane it was drawn in, after whether that is known from sparse labels."""
        used = [np.asarray(counts.any(axis=0)) for counts in self.pixels]
        axis = sparse_axis((used[0], used[1], used[2]))
        if axis is None:
            return False, plane_of_volume(self.grid)
        return True, plane_of_axis(self.grid, axis)


@dataclass(frozen=True, eq=False)
class Collection:
    """What a folder of label files offers to learn from.

    Attributes:
        candidates: every annotated slice that can be used, by case and then from the first slice to the last.
        pairs: every image with its label file, those that cannot be used included.
        findings: what is wrong with which file.
    """

    candidates: tuple[Candidate, ...]
    pairs: tuple[Pair, ...]
    findings: tuple[Finding, ...]

    @property
    def is_usable(self) -> bool:
        """Whether every file can be used and a slice is annotated."""
        return bool(self.candidates) and not any(finding.is_fatal for finding in self.findings)

    def usable(self) -> list[Candidate]:
        """Return the candidates, if every file can be used.

        Raises:
            InputError: a file cannot, or no slice is annotated.
        """
        refuse_fatal(self.findings, files=len(self.pairs))
        if not self.candidates:
            first = self.findings[0]
            raise InputError(f"'{first.file}' {first.problem}.", first.advice)
        return list(self.candidates)


@dataclass(frozen=True)
class Wanted:
    """How to look for annotated slices.

    Attributes:
        plane: how to slice; None decides from sparse labels, else from spacing, once for the whole set.
        group: regular expression for the patient in an image's file name.
        series: which of several DICOM series in an image folder.
        names: label names that win over those of headers and of `dataset.json`.
    """

    plane: Plane | None = None
    group: str | None = None
    series: str | None = None
    names: Mapping[int, str] = field(default_factory=dict)


AS_FOUND = Wanted()


def find_shots(
    labels: Path,
    images: Path | None = None,
    *,
    plane: Plane | None = None,
    group: str | None = None,
    names: Mapping[int, str] | None = None,
) -> list[Candidate]:
    """Return every annotated slice of a set, by case and then from the first slice to the last.

    Args:
        labels: a folder as `amsam adapt` takes it, or one label file.
        images: the folder of images, or one image; None looks where `find_pairs` looks.
        plane: how to slice; None decides from sparse labels, else from spacing, once for the whole set.
        group: regular expression for the patient in an image's file name.
        names: label names that win over those of headers and of `dataset.json`.

    Raises:
        InputError: no pairs, a file that cannot be read, nothing annotated, or a set in more than one plane.
        GeometryError: an image and its labels do not overlap in space.
    """
    found = inspect_shots(labels, images, Wanted(plane, group, names=names or {}))
    for finding in found.findings:
        if not finding.is_fatal:
            _log.warning("%s", finding)
    return found.usable()


def inspect_shots(labels: Path, images: Path | None = None, wanted: Wanted = AS_FOUND) -> Collection:
    """Return every annotated slice of a set, and what is wrong with which of its files.

    Raises:
        InputError: no pairs, or a set in more than one plane.
    """
    pairs = find_pairs(labels, images, group=wanted.group, series=wanted.series)
    surveys, findings = [], check_doubles([(pair.image, pair.patient) for pair in pairs])
    for pair in pairs:
        try:
            survey, remarks = _survey(pair)
        except InputError as err:
            findings.append(Finding.of_error(pair.labels.name, err))
            continue
        findings += remarks
        if survey.values:
            surveys.append(survey)
    plane = wanted.plane or _common_plane(surveys)
    dataset = read_dataset(Path(labels))
    scans = Scans(plane, {**(dataset.names if dataset else {}), **wanted.names})
    for survey in surveys:
        findings += check_grid(survey.pair.image.name, survey.grid, axis=axis_order(survey.grid, plane).axes[0])
    candidates = [candidate for survey in surveys for candidate in _candidates(survey, plane, scans)]
    return Collection(tuple(candidates), tuple(pairs), tuple(findings))


def _survey(pair: Pair) -> tuple[Survey, list[Finding]]:
    """Return what the label file of `pair` holds, on the grid of its image, and what is odd about it."""
    grid = read_grid(pair.image, series=pair.series)
    _, placed = placed_labels(pair.labels, grid)
    found = occurring_values(placed.values)
    remarks = []
    if placed.remark:
        remarks.append(Finding(pair.labels.name, placed.remark, "Check the pair, and look at the result."))
    if not found:
        remarks.append(
            Finding(pair.labels.name, "is empty: no voxel holds a label", "Annotate a slice of it, or remove it.")
        )
    return Survey(pair, grid, found, _pixels(placed.values, found)), remarks


def _pixels(
    values: NDArray[np.uint16], found: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return per file axis (L, n) the voxels of each label in each slice; slab by slab, to save memory."""
    i, j, k = values.shape
    across_i, across_j, across_k = (np.zeros((len(found), size), np.int64) for size in (i, j, k))
    rows = np.zeros(HIGHEST_LABEL + 1, np.int64)
    rows[list(found)] = np.arange(len(found))
    for n, slab in enumerate(values):
        jj, kk = np.nonzero(slab)
        row = rows[slab[jj, kk]]
        across_i[:, n] = np.bincount(row, minlength=len(found))
        across_j += np.bincount(row * j + jj, minlength=across_j.size).reshape(across_j.shape)
        across_k += np.bincount(row * k + kk, minlength=across_k.size).reshape(across_k.shape)
    return across_i, across_j, across_k


def _common_plane(surveys: Sequence[Survey]) -> Plane:
    """Return the one plane of a set; what sparse labels say counts before what spacings say."""
    votes = [(*survey.plane(), survey) for survey in surveys if survey.grid.unit != "px"]
    decisive = [vote for vote in votes if vote[0]] or votes
    if not decisive:
        return "axial"
    plane = decisive[0][1]
    other = next((vote for vote in decisive if vote[1] != plane), None)
    if other:
        first, second = decisive[0][2].pair.labels.name, other[2].pair.labels.name
        raise InputError(
            f"'{first}' looks {plane} but '{second}' looks {other[1]}; a set has one slicing plane.",
            f"Say which with --plane {plane} or --plane {other[1]}.",
        )
    return plane


def _candidates(survey: Survey, plane: Plane, scans: Scans) -> list[Candidate]:
    order = axis_order(survey.grid, plane)
    pixels = survey.pixels[order.axes[0]][:, :: -1 if order.flips[0] else 1]
    depth = pixels.shape[1]
    found = []
    for index in np.flatnonzero(pixels.any(axis=0)).tolist():
        areas = {value: int(n) for value, n in zip(survey.values, pixels[:, index], strict=True) if n}
        origin = _origin(survey, plane, index)
        found.append(Candidate(survey.pair, index, depth, areas, origin, plane, scans))
    return found


def _origin(survey: Survey, plane: Plane, index: int) -> str:
    """Return the slice's name: the image file and the index in that file's own order."""
    name = survey.pair.image.name
    if survey.grid.unit == "px":
        return name
    order = axis_order(survey.grid, plane)
    return f"{name}:{order.stored_index(index, survey.grid.shape[order.axes[0]])}"


def read_slice_list(file: Path, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that a `--slices` file names, in its order.

    A line is `case_03.nii.gz:41`, an image or label file and the index in its own stored order; a picture has no index.
    Empty lines and lines that begin with # are passed over.

    Raises:
        InputError: no such file, no line in it, or a line that names no annotated slice.
    """
    try:
        lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as err:
        raise InputError(f"Slice list '{file}' cannot be read: {err}.", "It is a text file, a slice a line.") from err
    wanted = [line for line in lines if line and not line.startswith("#")]
    if not wanted:
        raise InputError(
            f"Slice list '{file}' names no slice.", "Write a line such as case_03.nii.gz:41 for each slice."
        )
    chosen = [_named(line, candidates, Path(file)) for line in wanted]
    twice = next((each for n, each in enumerate(chosen) if each in chosen[:n]), None)
    if twice:
        raise InputError(f"Slice list '{file}' names {twice.origin} twice.", "Remove one of the lines.")
    return chosen


def _named(line: str, candidates: Sequence[Candidate], file: Path) -> Candidate:
    name, index = _parts(line)
    same_file = [each for each in candidates if Path(name).name in (each.pair.image.name, each.pair.labels.name)]
    if not same_file:
        raise InputError(
            f"'{line}' in '{file}' names no annotated file.", f"A slice is named like {candidates[0].origin}."
        )
    fitting = [each for each in same_file if _parts(each.origin)[1] in (index, None)]
    if len(fitting) != 1:
        indices = ", ".join(str(_parts(each.origin)[1]) for each in same_file[:20])
        raise InputError(f"'{line}' in '{file}' names no single annotated slice.", f"'{name}' has labels on {indices}.")
    return fitting[0]


def _parts(line: str) -> tuple[str, int | None]:
    """Return file name and index.

    >>> _parts("case_03.nii.gz:41"), _parts("picture.png")
    (('case_03.nii.gz', 41), ('picture.png', None))
    """
    name, colon, index = line.rpartition(":")
    return (name, int(index)) if colon and index.strip().isdigit() else (line, None)
