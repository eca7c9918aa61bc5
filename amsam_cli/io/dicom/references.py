"""Which series of images a DICOM annotation was drawn on, and where that series is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from amsam_cli.errors import InputError
from amsam_cli.io.dicom.files import is_annotation, read_files
from amsam_cli.io.formats import dicom_files


@dataclass(frozen=True)
class Drawn:
    """A DICOM annotation with its images.

    Attributes:
        labels: the SEG or RTSTRUCT.
        image: the folder of the series, or its one file.
        series: UID of the series, as a folder may hold others too.
    """

    labels: Path
    image: Path
    series: str


@dataclass(frozen=True)
class _Series:
    path: Path
    uid: str
    frame_of_reference: str


def annotations_in(path: Path) -> list[Path]:
    """Return the DICOM annotations that `path` is, or that lie in it or in a folder in it."""
    if path.is_file():
        return [path] if is_annotation(path) else []
    return [file for folder in _folders(path) for file in dicom_files(folder) if is_annotation(file)]


def find_drawn(annotations: Iterable[Path], places: Iterable[Path]) -> list[Drawn]:
    """Return every annotation with the series it refers to.

    Args:
        annotations: SEG and RTSTRUCT files.
        places: folders in which, and in whose folders, the series may be.

    Raises:
        InputError: a series that is not there.
    """
    known = {series.uid: series for place in places for folder in _folders(place) for series in _series_in(folder)}
    return [_drawn(path, known) for path in annotations]


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return [path, *(child for child in sorted(path.iterdir()) if child.is_dir() and not child.name.startswith("."))]


def _series_in(folder: Path) -> list[_Series]:
    found: dict[str, _Series] = {}
    for file in dicom_files(folder):
        if not is_annotation(file):
            header = read_files(file, pixels=False)[0].header
            uid = str(header.get("SeriesInstanceUID", ""))
            found.setdefault(uid, _Series(folder, uid, str(header.get("FrameOfReferenceUID", ""))))
    return list(found.values())


def _drawn(path: Path, known: dict[str, _Series]) -> Drawn:
    header = read_files(path, pixels=False)[0].header
    referred = _referred_series(header)
    fitting = [known[uid] for uid in referred if uid in known]
    if not referred:  # then the space they share decides, if it is but one series'
        frame = str(header.get("FrameOfReferenceUID", "")) or "none"
        same = [series for series in known.values() if series.frame_of_reference == frame]
        fitting = same if len(same) == 1 else []
    if not fitting:
        wanted = f"series …{referred[0][-8:]}" if referred else "a series that it does not name"
        raise InputError(
            f"'{path}' was drawn on {wanted}, which is not here.",
            "Put the folder of its images beside it, or give it with --images.",
        )
    return Drawn(path, fitting[0].path, fitting[0].uid)


def _referred_series(header: Any) -> list[str]:
    """Return the UIDs of the series that a SEG or an RTSTRUCT refers to."""
    items: list[Dataset] = list(header.get("ReferencedSeriesSequence", ()))
    for frame in header.get("ReferencedFrameOfReferenceSequence", ()):
        for study in frame.get("RTReferencedStudySequence", ()):
            items += study.get("RTReferencedSeriesSequence", ())
    return [str(item.SeriesInstanceUID) for item in items if "SeriesInstanceUID" in item]
