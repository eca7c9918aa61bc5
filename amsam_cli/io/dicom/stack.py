"""Slices to one regular grid, or a sentence why they are none.

Slices are placed by their positions, never by their numbers or names. What a regular grid cannot hold (tilted, unevenly
spaced or doubled slices) is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import ensure_tuple
from numpy.typing import NDArray

from amsam_cli.errors import GeometryError
from amsam_cli.io.axes import checked_geometry
from amsam_cli.io.dicom.files import DicomFile, choose_series, read_files
from amsam_cli.io.dicom.slices import Slice, slices_of
from amsam_cli.io.formats import dicom_files, format_of
from amsam_cli.volume import Geometry

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

UNEVEN = 0.2
"""Share of a slice step by which a slice may miss its place on the even grid; headers round positions."""

TILT_DEGREES = 0.5
"""Angle between the stack and the slices' normal from which on slices are sheared, not stacked."""


class DicomSeriesReader(ImageReader):  # type: ignore[misc]
    """Reads the series in a folder or zip archive, or one DICOM file, to one volume.

    MONAI's own reader sorts by InstanceNumber, which scanners also count downwards or by time, takes slice spacing from
    the first two files, stacks tilted and uneven series without a word, and knows no multi-frame images.

    Args:
        series: which of several series, as `choose_series` takes it.
    """

    def __init__(self, *, series: str | None = None) -> None:
        super().__init__()
        self.series = series

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Return whether it is a folder, archive or file with DICOM in it."""
        return all(format_of(Path(name)) == "dicom" for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Return the slices of one series, pixels included, by position."""
        (name,) = ensure_tuple(data)
        return read_series(Path(name), self.series, pixels=True)

    def get_data(self, img: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return voxels (I, J, K), rescaled, and MONAI's meta dictionary."""
        geometry = series_geometry(img)
        voxels = np.empty(geometry.shape if geometry.unit == "mm" else geometry.shape[::-1], np.float32)
        for number, each in enumerate(img):
            voxels[..., number] = each.values().T
        meta = {
            "affine": geometry.affine.copy(),
            "original_affine": geometry.affine.copy(),
            "spatial_shape": np.asarray(geometry.shape),
            "space": "RAS",
            "original_channel_dim": float("nan"),
            "modality": str(img[0].header.get("Modality", "")),
            "series": img[0].file.series,
            "unit": geometry.unit,
        }
        return voxels, meta


def dicom_grid(path: Path, series: str | None = None) -> Geometry:
    """Return the grid of a series in file axes: column, row, slice."""
    return series_geometry(read_series(path, series, pixels=False))


def patient_id(path: Path) -> str:
    """Return the PatientID of a series as it stands, to be hashed by the caller; "" if there is none."""
    first = dicom_files(path)[0] if path.is_dir() else path
    return str(read_files(first, pixels=False)[0].header.get("PatientID", "") or "")


def images_in(path: Path, series: str | None = None, *, pixels: bool = False) -> list[DicomFile]:
    """Return the files of the one series of images at `path`; series of marks and reports are passed over.

    Raises:
        InputError: none there, or several series to choose from.
    """
    files = read_files(path, pixels=pixels)
    chosen = choose_series([file for file in files if file.is_image] or files, series, path)[0].series
    return [file for file in files if file.series == chosen]


def read_series(path: Path, series: str | None = None, *, pixels: bool) -> list[Slice]:
    """Return the slices of one series, sorted along their normal.

    Args:
        path: a folder, a zip archive or a file.
        series: which of several, as `choose_series` takes it.
        pixels: whether to read pixels too.

    Raises:
        InputError: no image, several series, or a kind that cannot be read.
        GeometryError: slices that do not stack to a regular grid.
    """
    slices = slices_of(images_in(path, series or None, pixels=pixels))
    _refuse_if_mixed(slices, "sizes", lambda each: each.size)
    if len(slices) == 1 and "ImagePositionPatient" in slices[0].missing:
        return slices  # an X-ray: a picture
    for each in slices:
        _refuse_unplaced(each)
    _refuse_if_mixed(slices, "orientations", lambda each: tuple(np.round(each.orientation, 3).ravel().tolist()))
    _refuse_if_mixed(slices, "pixel spacings", lambda each: each.spacing)
    normal = slices[0].normal
    slices = sorted(slices, key=lambda each: float(each.position @ normal))
    _refuse_irregular(slices)
    return slices


def _refuse_if_mixed(slices: Sequence[Slice], what: str, key: Callable[[Slice], Hashable]) -> None:
    other = next((each for each in slices if key(each) != key(slices[0])), None)
    if other:
        raise GeometryError(
            f"The series holds several {what}: {slices[0]} has {key(slices[0])}, {other} has {key(other)}.",
            "Move scouts and other views out of the folder.",
        )


def _refuse_unplaced(each: Slice) -> None:
    if each.missing:
        raise GeometryError(f"{each} has no {each.missing[0]}: where it lies is unknown.", "Export the series again.")


def _refuse_irregular(slices: Sequence[Slice]) -> None:
    """Refuse slices, sorted, that do not lie evenly along their normal."""
    if len(slices) == 1:
        return
    along = np.asarray([each.position @ slices[0].normal for each in slices])
    steps = np.diff(along)
    even = np.linspace(along[0], along[-1], len(along))
    step = even[1] - even[0]
    if steps.min() < 1e-3:
        n = int(np.argmin(steps))
        raise GeometryError(
            f"{slices[n]} and {slices[n + 1]} lie at one place, {along[n]:.2f} mm.",
            "Keep one of them; several time points or echoes need a folder each.",
        )
    if np.abs(along - even).max() > UNEVEN * step:
        raise GeometryError(_uneven(slices, along), "Add the missing slices, or resample the series to even steps.")
    _refuse_shifted(slices, tolerance=UNEVEN * step)
    stack = (slices[-1].position - slices[0].position) / (along[-1] - along[0])
    tilt = float(np.degrees(np.arccos(np.clip(1 / np.linalg.norm(stack), -1, 1))))
    if tilt > TILT_DEGREES:
        raise GeometryError(
            f"The series is tilted by {tilt:.1f} degrees from {slices[0]} to {slices[-1]} (gantry tilt).",
            "Convert it with a program that corrects tilt, such as dcm2niix, and give the NIfTI file.",
        )


def _refuse_shifted(slices: Sequence[Slice], *, tolerance: float) -> None:
    """Refuse a slice that lies beside the line on which the others are stacked."""
    positions = np.stack([each.position for each in slices])
    beside = np.linalg.norm(positions - np.linspace(positions[0], positions[-1], len(slices)), axis=1)
    n = int(beside.argmax())
    if beside[n] > tolerance:
        raise GeometryError(
            f"{slices[n]} lies {beside[n]:.2f} mm beside the line on which the other slices are stacked.",
            "Is it of another series? Move it out of the folder, or export the series again.",
        )


def _uneven(slices: Sequence[Slice], along: NDArray[np.float64]) -> str:
    """Return the sentence on the steps that occur, and where the widest is."""
    steps = np.diff(along)
    n = int(np.argmax(steps))
    occurring = ", ".join(f"{step:g}" for step in np.unique(np.round(steps, 2))[:6])
    return f"The slices are unevenly spaced, {occurring} mm: {steps[n]:.2f} mm between {slices[n]} and {slices[n + 1]}."


def series_geometry(slices: Sequence[Slice]) -> Geometry:
    """Return the grid of sorted slices, file axes (column, row, slice), RAS+; of an X-ray in pixels."""
    first, last = slices[0], slices[-1]
    rows, columns = first.size
    if "ImagePositionPatient" in first.missing:
        return Geometry.of_picture(rows, columns)
    between_rows, between_columns = first.spacing
    lps = np.eye(4)
    lps[:3, 0] = first.orientation[0] * between_columns
    lps[:3, 1] = first.orientation[1] * between_rows
    lps[:3, 2] = (
        (last.position - first.position) / (len(slices) - 1) if len(slices) > 1 else first.normal * first.thickness
    )
    lps[:3, 3] = first.position
    return checked_geometry((columns, rows, len(slices)), LPS_TO_RAS @ lps, first.file.name)
