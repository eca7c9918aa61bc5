"""What there is to segment: one scan, or a folder of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from amsam_cli.errors import InputError
from amsam_cli.io.dicom.files import is_annotation
from amsam_cli.io.formats import READABLE, dicom_files, format_of, is_dicom, is_sidecar, stem_of, suffix_of


@dataclass(frozen=True)
class Case:
    """One scan to segment.

    Attributes:
        path: its file, or the folder or archive of its DICOM series.
        name: what its results are called.
        series: which of several DICOM series, by number, UID or the end of the UID.
    """

    path: Path
    name: str
    series: str | None = None


def find_cases(path: Path, *, series: str | None = None) -> list[Case]:
    """Return the scans in `path`, sorted by name: one for a file or a DICOM folder, else every scan inside.

    A folder of nothing but DICOM annotations holds one case for each.

    Args:
        path: a file or folder.
        series: which of several DICOM series in one folder.

    Raises:
        InputError: nothing there, nothing that amsam reads, or two scans whose results would share a name.
    """
    path = Path(path)
    if not path.is_dir() or holds_series(path):
        format_of(path)
        return [Case(path, stem_of(path.resolve()), series)]
    cases = [Case(scan, stem_of(scan), series) for scan in sorted(path.iterdir()) if is_scan(scan)]
    if not cases:
        raise InputError(f"Folder '{path}' holds no scan.", f"One scan is {READABLE}.")
    _refuse_shared_names(cases)
    return cases


def holds_series(folder: Path) -> bool:
    """Return whether DICOM images lie directly in a folder, which is one case then."""
    return any(not is_annotation(file) for file in dicom_files(folder))


def is_scan(path: Path) -> bool:
    """Return whether `path` is named like a scan or holds a DICOM series, and is none of our sidecars."""
    if is_sidecar(path):
        return False
    if path.is_dir():
        return bool(dicom_files(path))
    return bool(suffix_of(path)) or is_dicom(path)


def _refuse_shared_names(cases: list[Case]) -> None:
    by_name: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        by_name[case.name].append(f"'{case.path.name}'")
    shared = [files for files in by_name.values() if len(files) > 1]
    if shared:
        raise InputError(
            f"{' and '.join(shared[0])} in '{cases[0].path.parent}' would give results of one name.",
            "Rename one of them, or move it out of the folder.",
        )
