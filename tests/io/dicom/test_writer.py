"""What we write as DICOM SEG lies, by its own geometry, where the label map lies by its affine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from amsam_cli.errors import InputError
from amsam_cli.io import read_labels, read_volume, write_labels, write_probabilities
from amsam_cli.io.dicom.codes import read_codes
from amsam_cli.io.dicom.writer import Author
from amsam_cli.version import __version__
from amsam_cli.volume import LabelMap, Volume
from tests.io.dicom.conftest import complete, oblique

Save = Callable[..., Path]
SHA = "ab" * 32
TURN = oblique(20, 35)

DIRECTIONS = {
    "axial": ([1, 0, 0], [0, 1, 0]),
    "columns-reversed": ([-1, 0, 0], [0, 1, 0]),
    "rows-reversed": ([1, 0, 0], [0, -1, 0]),
    "coronal": ([1, 0, 0], [0, 0, -1]),
    "sagittal": ([0, 1, 0], [0, 0, -1]),
    "sagittal-reversed": ([0, -1, 0], [0, 0, 1]),
    "oblique": (TURN[:, 0].tolist(), TURN[:, 1].tolist()),
    "double-oblique-reversed": ((-TURN[:, 1]).tolist(), TURN[:, 2].tolist()),
}
every_direction = pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)


def labels_on(volume: Volume) -> LabelMap:
    """Return two lopsided labels, 3 and 7."""
    data = np.zeros(volume.geometry.shape, np.uint16)
    data[0, 1, 0], data[0, 1, 1], data[1, 2, 0] = 3, 3, 3
    data[-1, -1, -1] = 7
    return LabelMap(data, volume.geometry, {3: "liver", 7: "left kidney"})


def centroid(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.argwhere(mask).mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]


@every_direction
def test_segments_lie_where_the_label_map_says(
    placed_series: Save, tmp_path: Path, directions: tuple[list[float], list[float]]
) -> None:
    volume = read_volume(placed_series(*directions))
    labels = labels_on(volume)

    write_labels(labels, tmp_path / "m.dcm", like=volume.source)

    seg = hd.seg.segread(tmp_path / "m.dcm")
    for number, value in ((1, 3), (2, 7)):
        found = seg.get_volume(segment_numbers=[number])
        lps = centroid(found.array[..., 0] > 0, found.affine)
        expected = centroid(labels.mask(value), labels.geometry.affine)
        assert np.abs(lps * [-1, -1, 1] - expected).max() < 1e-4


@every_direction
def test_segments_are_read_back_onto_their_image(
    placed_series: Save, tmp_path: Path, directions: tuple[list[float], list[float]]
) -> None:
    volume = read_volume(placed_series(*directions), "sagittal")
    labels = labels_on(volume)

    write_labels(labels, tmp_path / "m.dcm", like=volume.source)

    back = read_labels(tmp_path / "m.dcm", "sagittal", on=volume.source.geometry)
    assert np.array_equal(back.data, labels.data)
    assert back.names == labels.names


def test_multi_frame_image_gets_a_segmentation_of_its_frames(save_enhanced: Save, tmp_path: Path) -> None:
    volume = read_volume(save_enhanced([6.0, 0.0, 2.0, 4.0]))
    labels = labels_on(volume)

    write_labels(labels, tmp_path / "m.dcm", like=volume.source)

    back = read_labels(tmp_path / "m.dcm", "axial", on=volume.source.geometry)
    assert np.array_equal(back.data, labels.data)


def test_segmentation_is_the_same_file_every_time(placed_series: Save, tmp_path: Path) -> None:
    volume = read_volume(placed_series(*DIRECTIONS["oblique"]))

    for name in ("a.dcm", "b.dcm"):
        write_labels(labels_on(volume), tmp_path / name, like=volume.source, author=Author(SHA))

    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


@pytest.fixture
def written(placed_series: Save, tmp_path: Path) -> pydicom.Dataset:
    """A SEG of an axial series with a SNOMED code for the liver."""
    volume = read_volume(placed_series(*DIRECTIONS["axial"]))
    (tmp_path / "labels.json").write_text('{"liver": {"code": "10200004", "meaning": "Liver", "colour": [255, 0, 0]}}')
    author = Author(SHA, read_codes(tmp_path / "labels.json"))
    write_labels(labels_on(volume), tmp_path / "m.dcm", like=volume.source, author=author)
    return pydicom.dcmread(tmp_path / "m.dcm")


def test_segments_are_numbered_by_value_named_coded_and_coloured(written: pydicom.Dataset) -> None:
    liver, kidney = written.SegmentSequence

    assert (written.SegmentationType, liver.SegmentNumber, kidney.SegmentNumber) == ("BINARY", 1, 2)
    assert (liver.SegmentLabel, kidney.SegmentLabel) == ("liver", "left kidney")
    code = liver.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("10200004", "SCT", "Liver")
    plain = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (plain.CodeValue, plain.CodingSchemeDesignator) == ("left kidney", "99AMSAM")
    assert "RecommendedDisplayCIELabValue" in liver


def test_segmentation_says_who_made_it_and_of_what(written: pydicom.Dataset, tmp_path: Path) -> None:
    algorithm = written.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    source = pydicom.dcmread(tmp_path / "series" / "000.dcm")

    assert algorithm.AlgorithmName == "amsam"
    assert algorithm.AlgorithmVersion == __version__
    assert SHA in algorithm.AlgorithmParameters
    assert written.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert written.StudyInstanceUID == source.StudyInstanceUID
    assert written.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert (written.ContentDate, written.ContentTime) == ("20200131", "101112")


def test_segmentation_has_no_private_tag_and_no_path(written: pydicom.Dataset, tmp_path: Path) -> None:
    private = [element.tag for element in written.iterall() if element.tag.is_private]

    assert private == []
    assert str(tmp_path).encode() not in (tmp_path / "m.dcm").read_bytes()


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dicom3tools are not here")
def test_validator_finds_no_error(written: pydicom.Dataset, tmp_path: Path) -> None:
    said = subprocess.run(["dciodvfy", tmp_path / "m.dcm"], capture_output=True, text=True, check=False).stderr

    assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_probabilities_become_a_fractional_segmentation(placed_series: Save, tmp_path: Path) -> None:
    volume = read_volume(placed_series(*DIRECTIONS["coronal"]), "axial")
    ramp = np.linspace(0.1, 1, volume.data.size, dtype=np.float16).reshape(volume.geometry.shape)

    write_probabilities({3: ramp}, {3: "liver"}, tmp_path / "p.dcm", like=volume.source)

    seg = hd.seg.segread(tmp_path / "p.dcm")
    stored = seg.get_volume(segment_numbers=[1]).array[..., 0].transpose(2, 1, 0)
    expected = volume.source.order.undo(ramp)
    assert seg.SegmentationType == "FRACTIONAL"
    assert min(np.abs(turned - expected).max() for turned in (stored, stored[..., ::-1])) <= 0.5 / 255 + 1e-3


def test_empty_mask_is_written_too(placed_series: Save, tmp_path: Path) -> None:
    volume = read_volume(placed_series(*DIRECTIONS["axial"]))
    nothing = LabelMap(np.zeros(volume.geometry.shape, np.uint16), volume.geometry, {1: "liver"})

    write_labels(nothing, tmp_path / "m.dcm", like=volume.source)

    assert not read_labels(tmp_path / "m.dcm", "axial", on=volume.source.geometry).data.any()


def test_series_without_study_is_refused_in_words_and_leaves_nothing(save_series: Save, tmp_path: Path) -> None:
    volume = read_volume(save_series([(0, 0, 0), (0, 0, 2)]))

    with pytest.raises(InputError, match="do not allow a DICOM SEG"):
        write_labels(labels_on(volume), tmp_path / "out" / "m.dcm", like=volume.source)

    assert not (tmp_path / "out").exists()


def test_lossy_series_without_its_ratio_gets_a_segmentation(save_series: Save, tmp_path: Path) -> None:
    def change(number: int, header: pydicom.FileDataset) -> None:
        complete(number, header)
        header.LossyImageCompression = "01"

    volume = read_volume(save_series([(0, 0, 0), (0, 0, 2)], change=change))

    write_labels(labels_on(volume), tmp_path / "m.dcm", like=volume.source)

    assert (tmp_path / "m.dcm").is_file()


def test_xray_gets_a_segmentation_without_a_place(save_series: Save, tmp_path: Path) -> None:
    def change(number: int, header: pydicom.FileDataset) -> None:
        complete(number, header)
        del header.ImagePositionPatient, header.ImageOrientationPatient, header.FrameOfReferenceUID
        header.PatientOrientation, header.Modality = ["L", "F"], "DX"
        header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"

    volume = read_volume(save_series([(0, 0, 0)], change=change))
    labels = np.zeros((1, 4, 5), np.uint16)
    labels[0, 1, 4] = 2

    write_labels(LabelMap(labels, volume.geometry, {2: "lung"}), tmp_path / "m.dcm", like=volume.source)

    back = read_labels(tmp_path / "m.dcm", "axial", on=volume.source.geometry)
    assert np.array_equal(back.data, labels)
