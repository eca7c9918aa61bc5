"""Which file is of which format, and what a case is called: decided by names, without reading pixels.

The one place that knows suffixes. Imports neither MONAI nor any file library.
"""

from __future__ import annotations

from pathlib import Path

from amsam_cli.errors import InputError
from amsam_cli.volume import FileFormat

# Double suffixes first: the first that fits is the file's suffix.
SUFFIXES: dict[str, FileFormat] = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "mha",
    ".mhd": "mha",
    ".png": "image",
    ".jpg": "image",
    ".jpeg": "image",
    ".bmp": "image",
    ".tif": "image",
    ".tiff": "image",
    ".dcm": "dicom",
    ".ima": "dicom",
    ".zip": "dicom",
}

READABLE = "NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), MHA (.mha, .mhd), a DICOM folder or zip, or PNG, JPEG, TIFF"

PROBABILITIES = ".probabilities"
_SIDECARS = (".json", ".preview.png", ".html")

_REFUSED = {
    ".hdr": "Analyze files do not say which side is left; convert it to NIfTI from the original DICOM.",
    ".img": "Analyze files do not say which side is left; convert it to NIfTI from the original DICOM.",
}


def suffix_of(path: Path) -> str:
    """Return the suffix that tells the format, lower case, ".nii.gz" as a whole; "" if it tells none.

    >>> suffix_of(Path("a.b.NII.GZ")), suffix_of(Path("notes.txt"))
    ('.nii.gz', '')
    """
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def stem_of(path: Path) -> str:
    """Return the name of the case in `path`: the file's name without its (double) suffix, or the folder's.

    >>> stem_of(Path("scans/case.1.nii.gz"))
    'case.1'
    """
    return path.name[: len(path.name) - len(suffix_of(path))]


def is_sidecar(path: Path) -> bool:
    """Return whether `path` is named like what amsam leaves beside a mask, or is hidden."""
    name = path.name.lower()
    return name.startswith(".") or name.endswith(_SIDECARS) or f"{PROBABILITIES}." in name


def is_dicom(path: Path) -> bool:
    """Return whether `path` is a DICOM image file: by suffix, else by the mark at byte 128, as many have no suffix."""
    known = SUFFIXES.get(suffix_of(path))
    if known or path.name.upper() == "DICOMDIR" or not path.is_file():
        return known == "dicom" and path.is_file() and path.suffix.lower() != ".zip"
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def dicom_files(folder: Path) -> list[Path]:
    """Return the DICOM files directly inside `folder`, by name."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and is_dicom(path))


def format_of(path: Path) -> FileFormat:
    """Return the format of an existing file or DICOM folder.

    Raises:
        InputError: it does not exist, or is of no format that amsam reads.
    """
    if not path.exists():
        raise InputError(f"'{path}' does not exist.", "Check the spelling, and the folder that amsam runs in.")
    if path.is_dir():
        if dicom_files(path):
            return "dicom"
        raise InputError(f"Folder '{path}' holds no DICOM file.", f"One scan is {READABLE}.")
    known = SUFFIXES.get(suffix_of(path))
    if known:
        return known
    if is_dicom(path):
        return "dicom"
    hint = _REFUSED.get(path.suffix.lower(), f"amsam reads {READABLE}.")
    raise InputError(f"'{path}' is of no format that amsam reads.", hint)
