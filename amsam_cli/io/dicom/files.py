"""DICOM objects in a folder, a file or a zip archive, and the series they are of.

Archives are read in memory, member by member: nothing is unpacked, so nothing can be unpacked to the wrong place.
"""

from __future__ import annotations

import stat
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError

from amsam_cli.errors import InputError
from amsam_cli.io.formats import dicom_files

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
CONTOURS = "1.2.840.10008.5.1.4.1.1.481.3"

MOST_MEMBERS = 20_000
MOST_BYTES = 16 << 30
HIGHEST_RATIO = 200
SMALL_BYTES = 64 << 20
"""Up to this size an archive may be squeezed as far as it will: empty slices are."""

_DAMAGED = (OSError, EOFError, ValueError, KeyError, AttributeError, NotImplementedError, zipfile.BadZipFile)


@dataclass(frozen=True)
class DicomFile:
    """One DICOM object.

    Attributes:
        name: its file name, for messages.
        header: its data set, which may lack pixels.
    """

    name: str
    header: Any

    @property
    def kind(self) -> str:
        """Its SOP class UID."""
        return str(self.header.get("SOPClassUID", ""))

    @property
    def series(self) -> str:
        """Its series instance UID."""
        return str(self.header.get("SeriesInstanceUID", ""))

    @property
    def is_image(self) -> bool:
        """Whether it holds pictures of a patient, not marks on them, reports or settings."""
        return self.kind not in (*SEGMENTATIONS, CONTOURS) and "Rows" in self.header and "Columns" in self.header


@contextmanager
def quiet() -> Iterator[None]:
    """Keep remarks about values that break the standard off the user's screen; many scanners write such."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        warnings.filterwarnings("ignore", module="highdicom")
        yield


def read_files(path: Path, *, pixels: bool) -> list[DicomFile]:
    """Return the DICOM objects at `path`: a folder's own, an archive's at any depth, or the file's one.

    Raises:
        InputError: damaged, none there, or an archive that is not safe to open.
    """
    if path.is_dir():
        found = [_read(file, str(file), pixels=pixels) for file in dicom_files(path)]
    elif path.suffix.lower() == ".zip":
        found = list(_members(path, pixels=pixels))
    else:
        found = [_read(path, str(path), pixels=pixels)]
    if not found:
        kind = "Folder" if path.is_dir() else "Archive"
        raise InputError(f"{kind} '{path}' holds no DICOM file.", "Give the folder with the files of one series.")
    return found


def _read(source: Path | BytesIO, called: str, *, pixels: bool) -> DicomFile:
    name = PurePosixPath(called).name
    try:
        with quiet():
            return DicomFile(name, pydicom.dcmread(source, stop_before_pixels=not pixels))
    except InvalidDicomError as err:
        raise InputError(
            f"'{called}' is no DICOM file.", "Move it out of the folder, or give it its own suffix."
        ) from err
    except _DAMAGED as err:
        raise InputError(
            f"'{called}' cannot be read as DICOM: {str(err)[:200]}",
            "The file is damaged or of another format; copy it again.",
        ) from err


def _members(path: Path, *, pixels: bool) -> Iterator[DicomFile]:
    """Yield the DICOM objects in an archive, by name, other files passed over."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in checked_members(archive, path):
                with archive.open(member) as file:
                    start = file.read(132)
                    if start[128:] == b"DICM":
                        yield _read(BytesIO(start + file.read()), f"{path}/{member.filename}", pixels=pixels)
    except _DAMAGED as err:
        raise InputError(
            f"'{path}' cannot be read as a zip archive: {str(err)[:200]}", "Make the archive again."
        ) from err


def checked_members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """Return the files of an archive, by name, having refused what honest archives of scans do not hold.

    Raises:
        InputError: too many members, too large or too tightly packed, encrypted, a link, or a name that leads outside.
    """
    members = [member for member in archive.infolist() if not member.is_dir()]
    for member in members:
        _refuse_member(member, path)
    size, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if len(members) > MOST_MEMBERS:
        said = f"holds {len(members)} files, at most {MOST_MEMBERS} are read"
    elif size > MOST_BYTES:
        said = f"unpacks to {size >> 30} GiB, at most {MOST_BYTES >> 30} are read"
    elif size > max(SMALL_BYTES, HIGHEST_RATIO * packed):
        said = f"unpacks to {size / max(packed, 1):.0f} times its size, at most {HIGHEST_RATIO} are believed"
    else:
        return sorted(members, key=lambda member: member.filename)
    raise InputError(f"Archive '{path}' {said}.", "Unpack it yourself and give the folder of one series.")


def _refuse_member(member: zipfile.ZipInfo, path: Path) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if member.flag_bits & 1:
        said = "is encrypted"
    elif stat.S_ISLNK(member.external_attr >> 16):
        said = "is a link"
    elif name.is_absolute() or ".." in name.parts or name.parts[0].endswith(":"):
        said = "leads out of the archive"
    else:
        return
    raise InputError(
        f"Member '{name.name}' of archive '{path}' {said}.", "Unpack it yourself and give the folder of the series."
    )


def is_annotation(path: Path) -> bool:
    """Return whether a DICOM file holds marks, SEG or RTSTRUCT; False for what cannot be read."""
    try:
        with quiet():
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    except (InvalidDicomError, *_DAMAGED):
        return False
    return str(header.get("SOPClassUID", "")) in (*SEGMENTATIONS, CONTOURS)


def choose_series(files: Sequence[DicomFile], series: str | None, path: Path) -> list[DicomFile]:
    """Return the files of the one series wanted.

    Args:
        files: images of one or more series.
        series: its number, its UID or the end of its UID; None where there is but one.
        path: where they are, for messages.

    Raises:
        InputError: several to choose from, or none that fits.
    """
    by_uid: dict[str, list[DicomFile]] = {}
    for file in files:
        by_uid.setdefault(file.series, []).append(file)
    fitting = [uid for uid, group in by_uid.items() if series is None or _fits(group[0], series)]
    if len(fitting) == 1:
        return by_uid[fitting[0]]
    listed = "; ".join(_described(by_uid[uid]) for uid in (fitting or by_uid))
    if not fitting:
        raise InputError(
            f"'{path}' holds no series {series}; it holds {listed}.", "Give --series one of these numbers."
        )
    raise InputError(
        f"'{path}' holds {len(fitting)} series ({listed}).",
        "Choose with --series, a number or the end of a UID, or give each series a folder of its own.",
    )


def _fits(file: DicomFile, series: str) -> bool:
    return str(file.header.get("SeriesNumber", "")) == series or (len(series) > 3 and file.series.endswith(series))


def _described(group: Sequence[DicomFile]) -> str:
    """Return a series in words; its description is free text, in which names of patients occur."""
    header = group[0].header
    number, modality = header.get("SeriesNumber", "?"), header.get("Modality", "?")
    return f"series {number}: {modality}, {len(group)} files from '{group[0].name}', UID …{group[0].series[-8:]}"
