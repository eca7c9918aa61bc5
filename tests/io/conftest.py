"""Small scans, masks and DICOM series on disk, each made in a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


@pytest.fixture
def save_nifti(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an array, file axes, as NIfTI."""

    def save(name: str, data: NDArray[np.generic], affine: NDArray[np.float64] | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
        return path

    return save


@pytest.fixture
def save_picture(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an array (H, W) or (H, W, C) as a picture."""

    def save(name: str, pixels: NDArray[np.generic]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    return save


@pytest.fixture
def save_series(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a CT series of 4x5 pixel slices at given positions (LPS mm)."""

    def save(
        positions: list[tuple[float, float, float]],
        *,
        orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
        folder: str = "series",
        change: Callable[[int, FileDataset], None] = lambda number, header: None,
    ) -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True, exist_ok=True)
        series = generate_uid(entropy_srcs=[folder])
        for number, position in enumerate(positions):
            header = _slice(number, position, orientation, series)
            change(number, header)
            header.save_as(path / f"{number:03d}.dcm", enforce_file_format=True)
        return path

    return save


def _slice(number: int, position: tuple[float, ...], orientation: tuple[float, ...], series: str) -> FileDataset:
    """Return a slice whose stored pixels are 10 * number + column, slope 2, intercept -1000."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, str(number)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    header.SeriesInstanceUID, header.Modality, header.PatientID = series, "CT", "patient-7"
    header.SeriesNumber, header.InstanceNumber = 3, 100 - number
    header.ImagePositionPatient, header.ImageOrientationPatient = list(position), list(orientation)
    header.PixelSpacing, header.SliceThickness = [0.5, 0.25], 2.0
    header.Rows, header.Columns = 4, 5
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    header.RescaleSlope, header.RescaleIntercept = 2, -1000
    pixels = np.tile(np.arange(5, dtype=np.uint16), (4, 1)) + np.uint16(10 * number)
    header.PixelData = pixels.tobytes()
    return header
