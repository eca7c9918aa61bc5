"""A DICOM series as one volume, or a sentence why it is none.

Slices are placed by their positions, never by their numbers or names. What a regular grid cannot hold (tilted, unevenly
spaced or doubled slices, several series) is refused by name. Messages name files, numbers and positions, not patients.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import ensure_tuple
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from amsam_cli.errors import GeometryError, InputError
from amsam_cli.io.axes import checked_geometry
from amsam_cli.io.formats import dicom_files
from amsam_cli.volume import Geometry

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

UNEVEN = 0.2
"""Share of a slice step by which a slice may miss its place on the even grid; headers round positions."""

TILT_DEGREES = 0.5
"""Angle between the stack and the slices' normal from which on slices are sheared, not stacked."""

_NO_IMAGE = {
    "1.2.840.10008.5.1.4.1.1.66.4": ("a DICOM segmentation (SEG)", "Convert it to NIfTI, and give its scan as image."),
    "1.2.840.10008.5.1.4.1.1.66.7": ("a DICOM label map (SEG)", "Convert it to NIfTI, and give its scan as image."),
    "1.2.840.10008.5.1.4.1.1.481.3": ("a contour set (RTSTRUCT)", "Convert it to a NIfTI label map."),
}


@dataclass(frozen=True)
class Slice:
    """One file of a series; its data set may lack pixels."""

    path: Path
    header: Any

    def __str__(self) -> str:
        """Return how messages name it."""
        return f"'{self.path.name}' (instance {self.header.get('InstanceNumber', '?')})"

    @property
    def position(self) -> NDArray[np.float64]:
        """The centre of its first voxel, LPS mm, (3,)."""
        return np.asarray(self.header.ImagePositionPatient, dtype=np.float64)

    @property
    def orientation(self) -> NDArray[np.float64]:
        """The directions along which columns and rows are counted, (2, 3)."""
        return np.asarray(self.header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)

    @property
    def normal(self) -> NDArray[np.float64]:
        """The direction across the slice, (3,)."""
        return np.cross(*self.orientation)


class DicomSeriesReader(ImageReader):  # type: ignore[misc]
    """Reads the series in a folder, or one DICOM file, to one volume.

    MONAI's own reader sorts by InstanceNumber, which scanners also count downwards or by time, takes slice spacing from
    the first two files, and stacks tilted and uneven series without a word.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Return whether it is a folder or file with DICOM in it."""
        return all(bool(_files(Path(name))) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Return the slices of one series, pixels included, by position."""
        (name,) = ensure_tuple(data)
        return read_series(Path(name), pixels=True)

    def get_data(self, img: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return voxels (I, J, K), rescaled, and MONAI's meta dictionary."""
        geometry = series_geometry(img)
        voxels = np.stack([_pixels(each).T for each in img], axis=-1)
        meta = {
            "affine": geometry.affine.copy(),
            "original_affine": geometry.affine.copy(),
            "spatial_shape": np.asarray(geometry.shape),
            "space": "RAS",
            "original_channel_dim": float("nan"),
            "modality": str(img[0].header.get("Modality", "")),
            "unit": geometry.unit,
        }
        return voxels, meta


def dicom_grid(path: Path) -> Geometry:
    """Return the grid of a series in file axes: column, row, slice."""
    return series_geometry(read_series(path, pixels=False))


def patient_id(path: Path) -> str:
    """Return the PatientID of a series as it stands, to be hashed by the caller; "" if there is none."""
    return str(_read(_files(path)[0], pixels=False).header.get("PatientID", "") or "")


def _files(path: Path) -> list[Path]:
    return dicom_files(path) if path.is_dir() else [path]


def read_series(path: Path, *, pixels: bool) -> list[Slice]:
    """Return the slices of the one series in `path`, sorted along their normal.

    Raises:
        InputError: no image, several series, several sizes, or a kind that is not read yet.
        GeometryError: slices that do not stack to a regular grid.
    """
    slices = [_read(file, pixels=pixels) for file in _files(path)]
    if not slices:
        raise InputError(f"Folder '{path}' holds no DICOM file.", "Give the folder with the files of one series.")
    for each in slices:
        _refuse_unfit(each)
    _refuse_several_series(slices, path)
    _refuse_if_mixed(slices, "sizes", lambda each: (int(each.header.Rows), int(each.header.Columns)))
    if len(slices) == 1 and "ImagePositionPatient" not in slices[0].header:
        return slices  # an X-ray: a picture
    for each in slices:
        _refuse_unplaced(each)
    _refuse_if_mixed(slices, "orientations", lambda each: tuple(np.round(each.orientation, 3).ravel().tolist()))
    _refuse_if_mixed(slices, "pixel spacings", lambda each: tuple(float(x) for x in each.header.PixelSpacing))
    normal = slices[0].normal
    slices = sorted(slices, key=lambda each: float(each.position @ normal))
    _refuse_irregular(slices)
    return slices


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep pydicom's remarks about values that break the standard off the user's screen; many scanners write such."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        yield


def _read(path: Path, *, pixels: bool) -> Slice:
    try:
        with _quiet():
            return Slice(path, pydicom.dcmread(path, stop_before_pixels=not pixels))
    except InvalidDicomError as err:
        raise InputError(
            f"'{path}' is no DICOM file.", "Move it out of the folder, or give it its own suffix."
        ) from err
    except (OSError, EOFError, ValueError, KeyError, AttributeError) as err:
        raise InputError(
            f"'{path}' cannot be read as DICOM: {str(err)[:200]}",
            "The file is damaged or of another format; copy it again.",
        ) from err


def _refuse_unfit(each: Slice) -> None:
    kind = _NO_IMAGE.get(str(each.header.get("SOPClassUID", "")))
    if kind:
        raise InputError(f"'{each.path}' is {kind[0]}, expected an image.", kind[1])
    frames = int(each.header.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        raise InputError(
            f"'{each.path}' holds {frames} frames in one file; expected one file per slice.",
            "Convert it to NIfTI (dcm2niix does), or export it as single frames.",
        )
    if "Rows" not in each.header or "Columns" not in each.header:
        raise InputError(f"'{each.path}' holds no image.", "Move it out of the folder of the series.")
    if int(each.header.get("SamplesPerPixel", 1)) != 1:
        raise InputError(f"'{each.path}' is in colours, expected grey values.", "Save it as PNG to segment a picture.")


def _refuse_several_series(slices: Sequence[Slice], path: Path) -> None:
    counts: dict[str, list[Slice]] = {}
    for each in slices:
        counts.setdefault(str(each.header.get("SeriesInstanceUID", "")), []).append(each)
    if len(counts) > 1:
        listed = "; ".join(
            f"series {group[0].header.get('SeriesNumber', '?')}: {len(group)} files from '{group[0].path.name}'"
            for group in counts.values()
        )
        raise InputError(f"'{path}' holds {len(counts)} series ({listed}).", "Give each series a folder of its own.")


def _refuse_if_mixed(slices: Sequence[Slice], what: str, key: Callable[[Slice], Hashable]) -> None:
    other = next((each for each in slices if key(each) != key(slices[0])), None)
    if other:
        raise GeometryError(
            f"The series holds several {what}: {slices[0]} has {key(slices[0])}, {other} has {key(other)}.",
            "Move scouts and other views out of the folder.",
        )


def _refuse_unplaced(each: Slice) -> None:
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    absent = [key for key in needed if not each.header.get(key)]
    if absent:
        raise GeometryError(f"{each} has no {absent[0]}: where it lies is unknown.", "Export the series again.")


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
    stack = (slices[-1].position - slices[0].position) / (along[-1] - along[0])
    tilt = float(np.degrees(np.arccos(np.clip(1 / np.linalg.norm(stack), -1, 1))))
    if tilt > TILT_DEGREES:
        raise GeometryError(
            f"The series is tilted by {tilt:.1f} degrees from {slices[0]} to {slices[-1]} (gantry tilt).",
            "Convert it with a program that corrects tilt, such as dcm2niix, and give the NIfTI file.",
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
    rows, columns = int(first.header.Rows), int(first.header.Columns)
    if "ImagePositionPatient" not in first.header:
        return Geometry.of_picture(rows, columns)
    between_rows, between_columns = (float(x) for x in first.header.PixelSpacing)
    lps = np.eye(4)
    lps[:3, 0] = first.orientation[0] * between_columns
    lps[:3, 1] = first.orientation[1] * between_rows
    lps[:3, 2] = (last.position - first.position) / (len(slices) - 1) if len(slices) > 1 else _thickness(first)
    lps[:3, 3] = first.position
    return checked_geometry((columns, rows, len(slices)), _LPS_TO_RAS @ lps, str(first.path.parent))


def _thickness(only: Slice) -> NDArray[np.float64]:
    """Return the step of a series of one slice: its thickness along its normal, (3,) mm."""
    header = only.header
    return only.normal * float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1.0)


def _pixels(each: Slice) -> NDArray[np.float32]:
    """Return one slice's values (rows, columns): rescaled, and bright where much is, also of MONOCHROME1."""
    try:
        with _quiet():
            stored = each.header.pixel_array
    except (AttributeError, NotImplementedError, RuntimeError, ValueError, KeyError, EOFError, OSError) as err:
        raise InputError(
            f"The pixels of '{each.path}' cannot be read: {str(err).splitlines()[0][:200]}",
            "Export the series uncompressed (Explicit VR Little Endian), or copy the file again.",
        ) from err
    values: NDArray[np.float32] = stored.astype(np.float32)
    if each.header.get("PhotometricInterpretation") == "MONOCHROME1":
        values = _inverted(values, each.header)
    slope, intercept = each.header.get("RescaleSlope"), each.header.get("RescaleIntercept")
    return values * np.float32(1 if slope is None else slope) + np.float32(intercept or 0)


def _inverted(values: NDArray[np.float32], header: Any) -> NDArray[np.float32]:
    """Return stored values counted from the other end of their range, as MONOCHROME1 means low is bright."""
    bits = int(header.BitsStored)
    ends = -1 if int(header.get("PixelRepresentation", 0)) else 2**bits - 1
    return np.float32(ends) - values
