"""DICOM SEG in: which segment is where, on the grid of the segmentation's own frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import ensure_tuple
from numpy.typing import NDArray

from amsam_cli.errors import InputError
from amsam_cli.io import names as label_names
from amsam_cli.io.axes import checked_geometry
from amsam_cli.io.dicom.files import SEGMENTATIONS, quiet, read_files
from amsam_cli.io.dicom.painting import paint
from amsam_cli.io.dicom.stack import LPS_TO_RAS
from amsam_cli.io.readers import LABEL_NAMES
from amsam_cli.volume import Geometry

LABEL_VALUE = "amsam label value {}"
"""What a segment's description says where the label's value is not its number; segments are numbered from 1."""
_LABEL_VALUE = re.compile(LABEL_VALUE.format(r"(\d+)"))

PROBABLE = 0.5
"""From this fraction on a voxel of a fractional segmentation counts as inside."""


class SegmentationReader(ImageReader):  # type: ignore[misc]
    """Reads a DICOM SEG to one label map on the grid of its own frames.

    MONAI's own reader gives one channel per segment, needs frames for every slice, and knows no fractions and no names.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Return whether it is a DICOM SEG."""
        return all(is_segmentation(Path(name)) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Return the segmentation of one file."""
        (name,) = ensure_tuple(data)
        return _open(Path(name))

    def get_data(self, img: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return label values (I, J, K) and MONAI's meta dictionary."""
        segments, path = described_segments(img), str(img.filename)
        masks = _Masks(img, Path(path).name)
        labels = paint({number: value for number, (value, _) in segments.items()}, masks.of, name=Path(path).name)
        geometry = masks.geometry
        meta = {
            "affine": geometry.affine.copy(),
            "original_affine": geometry.affine.copy(),
            "spatial_shape": np.asarray(geometry.shape),
            "space": "RAS",
            "original_channel_dim": float("nan"),
            "modality": "SEG",
            "unit": geometry.unit,
            LABEL_NAMES: label_names.to_text(dict(segments.values())),
        }
        return labels, meta


def is_segmentation(path: Path) -> bool:
    """Return whether a DICOM file is a segmentation."""
    return path.is_file() and read_files(path, pixels=False)[0].kind in SEGMENTATIONS


def _open(path: Path) -> Any:
    try:
        with quiet():
            header = pydicom.dcmread(path)
            _complete_measures(header)
            found = hd.seg.Segmentation.from_dataset(header, copy=False)
    except (ValueError, AttributeError, KeyError, OSError, RuntimeError, TypeError) as err:
        raise _refusal(path.name, err) from err
    found.filename = str(path)
    return found


def _complete_measures(header: Any) -> None:
    """Give a thickness to what has none, as marks on an X-ray; highdicom would refuse it, and nothing here asks."""
    shared = header.get("SharedFunctionalGroupsSequence", ())
    for groups in (*shared, *header.get("PerFrameFunctionalGroupsSequence", ())):
        for measures in groups.get("PixelMeasuresSequence", ()):
            if "SliceThickness" not in measures:
                measures.SliceThickness = 1.0


def _refusal(name: str, err: Exception) -> InputError:
    said = " ".join(str(err).split())[:200] or type(err).__name__
    return InputError(
        f"Segmentation '{name}' cannot be read: {said}",
        "It must hold frames that lie evenly in space; convert it to NIfTI on the grid of its scan.",
    )


def described_segments(seg: Any) -> dict[int, tuple[int, str]]:
    """Return segment number -> (label value, name); the value is the number unless we wrote another."""
    found = {}
    for segment in seg.SegmentSequence:
        number = int(segment.SegmentNumber)
        if number == 0:  # how a label map may say that it has a background
            continue
        told = _LABEL_VALUE.fullmatch(str(segment.get("SegmentDescription", "")))
        value = int(told.group(1)) if told else number
        found[number] = (value, str(segment.get("SegmentLabel", "") or f"label_{value}"))
    return found


class _Masks:
    """The segments of a SEG as masks (I, J, K) on one grid."""

    def __init__(self, seg: Any, name: str) -> None:
        self._seg = seg
        self._name = name
        self._affine: NDArray[np.float64] | None = None
        placed = "FrameOfReferenceUID" in seg and seg.get_volume_geometry() is not None
        self._of = self._in_space if placed else self._on_picture
        first = self.of(next(iter(described_segments(seg))))
        i, j, k = first.shape
        self.geometry = (
            Geometry.of_picture(j, i)
            if self._affine is None
            else checked_geometry((i, j, k), LPS_TO_RAS @ self._affine[:, [2, 1, 0, 3]], name)
        )

    def of(self, number: int) -> NDArray[np.bool_]:
        """Return where segment `number` is."""
        try:
            with quiet():
                return self._of(number)
        except (ValueError, AttributeError, KeyError, RuntimeError, TypeError, IndexError) as err:
            raise _refusal(self._name, err) from err

    def _in_space(self, number: int) -> NDArray[np.bool_]:
        found = self._seg.get_volume(segment_numbers=[number], combine_segments=False, dtype=np.float32)
        self._affine = np.asarray(found.affine, dtype=np.float64)
        return np.asarray(found.array[..., 0] >= PROBABLE).transpose(2, 1, 0)

    def _on_picture(self, number: int) -> NDArray[np.bool_]:
        frames = self._seg.pixel_array.reshape(-1, int(self._seg.Rows), int(self._seg.Columns))
        highest = int(self._seg.get("MaximumFractionalValue", 1))
        if self._seg.SegmentationType == "LABELMAP":
            (only,) = frames
            return np.asarray(only == number).T[..., None]
        inside = np.zeros(frames.shape[1:], np.bool_)
        for groups, frame in zip(self._seg.PerFrameFunctionalGroupsSequence, frames, strict=True):
            owner = groups if "SegmentIdentificationSequence" in groups else self._seg.SharedFunctionalGroupsSequence[0]
            if int(owner.SegmentIdentificationSequence[0].ReferencedSegmentNumber) == number:
                inside |= frame >= PROBABLE * highest
        return inside.T[..., None]
