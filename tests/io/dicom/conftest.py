"""DICOM objects made in a line: enhanced multi-frame images, SEG, contours, archives."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from amsam_cli.io.dicom.writer import SegmentationWriter
from amsam_cli.io.names import to_text
from amsam_cli.io.readers import LABEL_NAMES

STUDY = generate_uid(entropy_srcs=["study"])
FRAME = generate_uid(entropy_srcs=["frame of reference"])


def complete(number: int, header: FileDataset) -> None:
    """Add to a slice of `save_series` what a SEG refers to."""
    header.StudyInstanceUID, header.FrameOfReferenceUID = STUDY, FRAME
    header.PatientName, header.StudyDate, header.StudyTime = "Doe^Jane", "20200131", "101112"


def oblique(about_x: float, about_z: float) -> NDArray[np.float64]:
    """Return a rotation, angles in degrees, (3, 3)."""
    x, z = np.radians([about_x, about_z])
    turn_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    turn_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return turn_z @ turn_x


@pytest.fixture
def placed_series(save_series: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that writes a series of n slices, rows and columns along given directions."""

    def save(columns: Sequence[float], rows: Sequence[float], *, depth: int = 4, folder: str = "series") -> Path:
        normal = np.cross(columns, rows)
        positions = [tuple(np.array([5.0, -7.0, 11.0]) + 2.5 * n * normal) for n in range(depth)]
        return save_series(positions, orientation=(*columns, *rows), folder=folder, change=complete)

    return save


@pytest.fixture
def save_seg(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes labels (I, J, K) of a series as SEG."""

    def save(name: str, data: NDArray[np.generic], series: Path, names: dict[int, str]) -> Path:
        writer = SegmentationWriter()
        writer.set_data_array(data[None])
        writer.set_metadata({"filename_or_obj": str(series), LABEL_NAMES: to_text(names)})
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.write(path)
        return path

    return save


@pytest.fixture
def save_enhanced(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an enhanced CT of 4x5 pixel frames at given heights (mm), frame n holding n."""

    def save(heights: Sequence[float], name: str = "enhanced.dcm") -> Path:
        header = _object(EnhancedCTImageStorage, name)
        header.SeriesInstanceUID, header.Modality, header.SeriesNumber = generate_uid(entropy_srcs=["e"]), "CT", 5
        header.Rows, header.Columns, header.NumberOfFrames = 4, 5, len(heights)
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
        header.SharedFunctionalGroupsSequence = [_shared()]
        header.PerFrameFunctionalGroupsSequence = [_frame(number, height) for number, height in enumerate(heights)]
        header.PixelData = np.repeat(np.arange(len(heights), dtype=np.uint16), 20).tobytes()
        header.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return save


def _object(kind: str, name: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = kind, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[name])
    header = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    complete(0, header)
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    return header


def _shared() -> Dataset:
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.25], 2.0
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    return shared


def _frame(number: int, height: float) -> Dataset:
    """Return the groups of a frame: its place, and a scaling of its own."""
    groups, position, scaling, content = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = [0, 0, height]
    scaling.RescaleSlope, scaling.RescaleIntercept, scaling.RescaleType = 10, -number, "HU"
    content.DimensionIndexValues = [1, number + 1]
    groups.PlanePositionSequence, groups.PixelValueTransformationSequence = [position], [scaling]
    groups.FrameContentSequence = [content]
    return groups


@pytest.fixture
def save_contours(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an RTSTRUCT: name -> contours (N, 3) in LPS mm, drawn on a series."""

    def save(name: str, structures: dict[str, list[NDArray[np.float64]]], series: Path) -> Path:
        header = _object(RTStructureSetStorage, name)
        header.SeriesInstanceUID, header.Modality = generate_uid(entropy_srcs=["rt"]), "RTSTRUCT"
        first = pydicom.dcmread(sorted(series.iterdir())[0])
        header.ReferencedFrameOfReferenceSequence = [_referring(str(first.SeriesInstanceUID))]
        header.StructureSetROISequence = [_named(n, roi) for n, roi in enumerate(structures, start=1)]
        header.ROIContourSequence = [_drawn(n, drawn) for n, drawn in enumerate(structures.values(), start=1)]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        header.save_as(path, enforce_file_format=True)
        return path

    return save


def _referring(series: str) -> Dataset:
    frame, study, inner = Dataset(), Dataset(), Dataset()
    inner.SeriesInstanceUID = series
    study.RTReferencedSeriesSequence = [inner]
    frame.RTReferencedStudySequence = [study]
    return frame


def _named(number: int, name: str) -> Dataset:
    roi = Dataset()
    roi.ROINumber, roi.ROIName = number, name
    return roi


def _drawn(number: int, contours: list[NDArray[np.float64]]) -> Dataset:
    roi = Dataset()
    roi.ReferencedROINumber, roi.ContourSequence = number, []
    for points in contours:
        contour = Dataset()
        contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
        contour.ContourData = [round(float(x), 6) for x in points.ravel()]
        roi.ContourSequence.append(contour)
    return roi


@pytest.fixture
def zipped(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that packs a folder, its files under a path within the archive."""

    def pack(folder: Path, name: str = "series.zip", within: str = "a/b") -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, f"{within}/{file.name}")
        return tmp_path / name

    return pack
