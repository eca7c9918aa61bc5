"""Files in and out: scans, label maps, pairs of both, all in one canonical orientation.

The names below are imported when first used, so that `io.atomic` and `io.formats` cost neither MONAI nor torch.

    formats · atomic            which file is what; files that appear whole or not at all
    readers · dicom/ · writers  MONAI readers and writers where MONAI has none or errs
    axes · names · regrid       a file's axes to (D, H, W); label names in headers; labels of another grid
    reading · writing           read_volume, read_labels, write_labels, write_volume
    cases · pairs · shots       what to segment; what to learn from
    gate                        what is wrong with which file, before anything is done with it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amsam_cli.io.atomic import atomic_folder, atomic_path
    from amsam_cli.io.axes import plane_of_labels, plane_of_volume
    from amsam_cli.io.cases import Case, find_cases
    from amsam_cli.io.dicom.stack import DicomSeriesReader
    from amsam_cli.io.formats import stem_of
    from amsam_cli.io.gate import Finding, check_shots
    from amsam_cli.io.pairs import Pair, find_pairs
    from amsam_cli.io.readers import ItkReader, NiftiReader, PictureReader
    from amsam_cli.io.reading import read_grid, read_label_pair, read_labels, read_volume
    from amsam_cli.io.shots import Candidate, Collection, Wanted, find_shots, inspect_shots, read_slice_list
    from amsam_cli.io.writers import ItkWriter, NiftiWriter
    from amsam_cli.io.writing import write_labels, write_probabilities, write_volume

_HOMES = {
    "atomic": ("atomic_folder", "atomic_path"),
    "axes": ("plane_of_labels", "plane_of_volume"),
    "cases": ("Case", "find_cases"),
    "dicom.stack": ("DicomSeriesReader",),
    "formats": ("stem_of",),
    "gate": ("Finding", "check_shots"),
    "pairs": ("Pair", "find_pairs"),
    "readers": ("ItkReader", "NiftiReader", "PictureReader"),
    "reading": ("read_grid", "read_label_pair", "read_labels", "read_volume"),
    "shots": ("Candidate", "Collection", "Wanted", "find_shots", "inspect_shots", "read_slice_list"),
    "writers": ("ItkWriter", "NiftiWriter"),
    "writing": ("write_labels", "write_probabilities", "write_volume"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Candidate",
    "Case",
    "Collection",
    "DicomSeriesReader",
    "Finding",
    "ItkReader",
    "ItkWriter",
    "NiftiReader",
    "NiftiWriter",
    "Pair",
    "PictureReader",
    "Wanted",
    "atomic_folder",
    "atomic_path",
    "check_shots",
    "find_cases",
    "find_pairs",
    "find_shots",
    "inspect_shots",
    "plane_of_labels",
    "plane_of_volume",
    "read_grid",
    "read_label_pair",
    "read_labels",
    "read_slice_list",
    "read_volume",
    "stem_of",
    "write_labels",
    "write_probabilities",
    "write_volume",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
