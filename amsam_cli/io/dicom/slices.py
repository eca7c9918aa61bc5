"""One slice of a series: a file of its own, or one frame of a multi-frame file. Where it lies, and its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from amsam_cli.errors import InputError
from amsam_cli.io.dicom.files import CONTOURS, SEGMENTATIONS, DicomFile, quiet

_NO_IMAGE = {
    **dict.fromkeys(SEGMENTATIONS, ("a DICOM segmentation (SEG)", "Give the folder of the images it was drawn on.")),
    CONTOURS: ("a contour set (RTSTRUCT)", "Give the folder of the images it was drawn on."),
}


@dataclass(frozen=True)
class Slice:
    """One slice.

    Attributes:
        file: the object it is in.
        frame: which frame of it, from 0; None where the file is the slice.
    """

    file: DicomFile
    frame: int | None = None

    def __str__(self) -> str:
        """Return how messages name it."""
        if self.frame is not None:
            return f"frame {self.frame + 1} of '{self.file.name}'"
        return f"'{self.file.name}' (instance {self.header.get('InstanceNumber', '?')})"

    @property
    def header(self) -> Any:
        """The data set of its file."""
        return self.file.header

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.header.Rows), int(self.header.Columns)

    @property
    def missing(self) -> list[str]:
        """What is not said about where it lies."""
        return [
            key
            for key, found in (
                ("ImagePositionPatient", self._position),
                ("ImageOrientationPatient", self._orientation),
                ("PixelSpacing", self._measures.get("PixelSpacing")),
            )
            if not found
        ]

    @property
    def position(self) -> NDArray[np.float64]:
        """The centre of its first voxel, LPS mm, (3,)."""
        return np.asarray(self._position, dtype=np.float64)

    @property
    def orientation(self) -> NDArray[np.float64]:
        """The directions along which columns and rows are counted, (2, 3)."""
        return np.asarray(self._orientation, dtype=np.float64).reshape(2, 3)

    @property
    def normal(self) -> NDArray[np.float64]:
        """The direction across the slice, (3,)."""
        return np.cross(*self.orientation)

    @property
    def spacing(self) -> tuple[float, float]:
        """Distance between rows and between columns, mm."""
        between_rows, between_columns = (float(x) for x in self._measures.PixelSpacing)
        return between_rows, between_columns

    @property
    def thickness(self) -> float:
        """Distance to the next slice as the header gives it, mm."""
        return float(self._measures.get("SpacingBetweenSlices") or self._measures.get("SliceThickness") or 1.0)

    @property
    def _position(self) -> Any:
        return self._group("PlanePositionSequence").get("ImagePositionPatient")

    @property
    def _orientation(self) -> Any:
        return self._group("PlaneOrientationSequence").get("ImageOrientationPatient")

    @property
    def _measures(self) -> Any:
        return self._group("PixelMeasuresSequence")

    def _group(self, name: str) -> Any:
        """Return the data set with a group of facts: of a frame its own or the shared one, else the header."""
        if self.frame is None:
            return self.header
        shared = self.header.get("SharedFunctionalGroupsSequence") or [Dataset()]
        for groups in (self.header.PerFrameFunctionalGroupsSequence[self.frame], shared[0]):
            if groups.get(name):
                return groups[name][0]
        return Dataset()

    def values(self) -> NDArray[np.float32]:
        """Return its values (rows, columns): rescaled, and bright where much is, also of MONOCHROME1.

        Raises:
            InputError: the pixels are missing, damaged, or compressed in a way that cannot be read.
        """
        values: NDArray[np.float32] = self._stored().astype(np.float32)
        if self.header.get("PhotometricInterpretation") == "MONOCHROME1":
            values = _inverted(values, self.header)
        scaling = self._group("PixelValueTransformationSequence")
        slope, intercept = scaling.get("RescaleSlope"), scaling.get("RescaleIntercept")
        return values * np.float32(1 if slope is None else slope) + np.float32(intercept or 0)

    def _stored(self) -> NDArray[Any]:
        try:
            with quiet():
                pixels = self.header.pixel_array
        except (AttributeError, NotImplementedError, RuntimeError, ValueError, KeyError, EOFError, OSError) as err:
            raise InputError(
                f"The pixels of '{self.file.name}' cannot be read: {str(err).splitlines()[0][:200]}",
                "Export the series uncompressed (Explicit VR Little Endian), or copy the file again.",
            ) from err
        is_stack = self.frame is not None and pixels.ndim == 3
        return np.asarray(pixels[self.frame] if is_stack else pixels)


def _inverted(values: NDArray[np.float32], header: Any) -> NDArray[np.float32]:
    """Return stored values counted from the other end of their range, as MONOCHROME1 means low is bright."""
    bits = int(header.BitsStored)
    ends = -1 if int(header.get("PixelRepresentation", 0)) else 2**bits - 1
    return np.float32(ends) - values


def slices_of(files: Sequence[DicomFile]) -> list[Slice]:
    """Return the slices in files, in the order of files and frames.

    Raises:
        InputError: a file that holds no grey-value image, or frames that do not say where they lie.
    """
    found = []
    for file in files:
        _refuse_unfit(file)
        frames = int(file.header.get("NumberOfFrames", 1) or 1)
        is_enhanced = "PerFrameFunctionalGroupsSequence" in file.header
        if frames > 1 and not is_enhanced:
            raise InputError(
                f"'{file.name}' holds {frames} frames that do not say where they lie; expected one file per slice, or "
                "an enhanced multi-frame image.",
                "Export it as enhanced multi-frame or as single frames.",
            )
        if is_enhanced and len(file.header.PerFrameFunctionalGroupsSequence) != frames:
            raise InputError(
                f"'{file.name}' says that it holds {frames} frames, and describes "
                f"{len(file.header.PerFrameFunctionalGroupsSequence)}.",
                "Export it again.",
            )
        found += [Slice(file, frame) for frame in range(frames)] if is_enhanced else [Slice(file)]
    return found


def _refuse_unfit(file: DicomFile) -> None:
    kind = _NO_IMAGE.get(file.kind)
    if kind:
        raise InputError(f"'{file.name}' is {kind[0]}, expected an image.", kind[1])
    if not file.is_image:
        raise InputError(f"'{file.name}' holds no image.", "Move it out of the folder of the series.")
    if int(file.header.get("SamplesPerPixel", 1)) != 1:
        raise InputError(f"'{file.name}' is in colours, expected grey values.", "Save it as PNG to segment a picture.")
