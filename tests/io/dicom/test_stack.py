from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from amsam_cli.errors import GeometryError, InputError
from amsam_cli.io import read_grid, read_volume
from amsam_cli.io.readers import itk_geometry

Save = Callable[..., Path]
THREE = [(0.0, 0.0, 0.0), (0.0, 0.0, 2.0), (0.0, 0.0, 4.0)]


def test_series_has_rescaled_values_in_the_order_of_positions(save_series: Save) -> None:
    volume = read_volume(save_series([(0, 0, 4), (0, 0, 0), (0, 0, 2)]))

    assert volume.data[0, :, 0, 0].tolist() == [10 * 2 - 1000, 20 * 2 - 1000, -1000]  # S up: files 1, 2, 0
    assert volume.data[0, 0, 0].tolist() == [-980, -978, -976, -974, -972]
    assert volume.source is not None
    assert (volume.source.format, volume.source.modality) == ("dicom", "CT")


@pytest.mark.parametrize(
    "orientation",
    [(1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0.8, -0.6), (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0)],
    ids=["axial", "oblique", "sagittal", "mirrored"],
)
def test_series_lies_where_itk_reads_it(save_series: Save, orientation: tuple[float, ...]) -> None:
    normal = np.cross(orientation[:3], orientation[3:])
    folder = save_series([tuple(3.5 + normal * 2.5 * n) for n in range(4)], orientation=orientation)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()

    volume = read_volume(folder, "coronal")

    assert volume.source is not None
    assert np.allclose(volume.source.geometry.affine, itk_geometry(image).affine, atol=1e-5)
    stored = volume.source.order.undo(volume.data[0])
    assert np.array_equal(stored, sitk.GetArrayFromImage(image).transpose(2, 1, 0))
    assert read_grid(folder).matches(volume.source.geometry, tolerance_mm=0)


def test_series_uses_the_slope_of_every_slice(save_series: Save) -> None:
    def change(number: int, header: Any) -> None:
        header.RescaleSlope, header.RescaleIntercept = number + 1, 0

    volume = read_volume(save_series(THREE, change=change))

    assert volume.data[0, :, 0, 0].tolist() == [0, 10 * 2, 20 * 3]


def test_single_slice_is_as_thick_as_it_says(save_series: Save) -> None:
    volume = read_volume(save_series([(0, 0, 0)]) / "000.dcm")

    assert volume.geometry.spacing == (2.0, 0.5, 0.25)


def test_xray_without_position_is_a_picture_and_bright_where_dense(save_series: Save) -> None:
    def change(number: int, header: Any) -> None:
        del header.ImagePositionPatient, header.RescaleSlope, header.RescaleIntercept
        header.PhotometricInterpretation, header.Modality = "MONOCHROME1", "DX"

    volume = read_volume(save_series([(0, 0, 0)], change=change))

    assert volume.is_picture
    assert volume.data[0, 0, 0].tolist() == [4095, 4094, 4093, 4092, 4091]


def test_series_with_a_missing_slice_is_refused_by_name(save_series: Save) -> None:
    positions = [(0, 0, z) for z in (0, 2, 4, 8, 10)]

    with pytest.raises(
        GeometryError, match=r"unevenly spaced, 2, 4 mm: 4\.00 mm between '002\.dcm' \(instance 98\) and '003\.dcm'"
    ):
        read_volume(save_series(positions))


def test_series_with_a_missing_slice_far_in_is_refused(save_series: Save) -> None:
    positions = [(0, 0, z) for z in range(200) if z != 198]

    with pytest.raises(GeometryError, match=r"2\.00 mm between '197\.dcm'"):
        read_volume(save_series(positions))


def test_series_with_rounded_positions_is_read(save_series: Save) -> None:
    positions = [(0, 0, round(0.625 * n, 1)) for n in range(50)]

    assert read_volume(save_series(positions)).depth == 50


def test_series_with_one_place_twice_is_refused_by_name(save_series: Save) -> None:
    with pytest.raises(GeometryError, match=r"lie at one place, 2\.00 mm"):
        read_volume(save_series([*THREE, (0, 0, 2)]))


def test_tilted_series_is_refused_with_its_angle(save_series: Save) -> None:
    with pytest.raises(GeometryError, match=r"tilted by 45\.0 degrees"):
        read_volume(save_series([(0, 0, 0), (0, 1, 1), (0, 2, 2)]))


def test_two_series_in_a_folder_are_listed(save_series: Save) -> None:
    folder = save_series(THREE)
    other = save_series([(9, 9, 9)], folder="other")
    (other / "000.dcm").rename(folder / "x.dcm")

    with pytest.raises(
        InputError, match=r"holds 2 series \(series 3: CT, 3 files from '000\.dcm', .*; series 3: CT, 1 files"
    ):
        read_volume(folder)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("NumberOfFrames", 7, "holds 7 frames"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.66.4", "is a DICOM segmentation"),
        ("SamplesPerPixel", 3, "in colours"),
        ("PixelSpacing", None, "has no PixelSpacing"),
        ("Rows", 2, "several sizes"),
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, 1], "several orientations"),
        ("PixelSpacing", [1, 1], "several pixel spacings"),
    ],
    ids=["frames", "seg", "colours", "unplaced", "size", "orientation", "spacing"],
)
def test_slice_that_does_not_fit_is_refused(save_series: Save, key: str, value: object, said: str) -> None:
    def change(number: int, header: Any) -> None:
        if number == 1:
            setattr(header, key, value)

    with pytest.raises(InputError, match=said):
        read_volume(save_series(THREE, change=change))


def test_slice_without_pixels_is_refused_by_name(save_series: Save) -> None:
    def change(number: int, header: Any) -> None:
        if number == 1:
            del header.PixelData

    with pytest.raises(InputError, match=r"pixels of '.*001\.dcm' cannot be read"):
        read_volume(save_series(THREE, change=change))


def test_slice_cut_short_is_refused_by_name(save_series: Save) -> None:
    folder = save_series(THREE)
    whole = (folder / "001.dcm").read_bytes()
    (folder / "001.dcm").write_bytes(whole[:-20])

    with pytest.raises(InputError, match=r"001\.dcm' cannot be read"):
        read_volume(folder)


def test_refusals_name_no_patient(save_series: Save) -> None:
    def change(number: int, header: Any) -> None:
        header.PatientName = "Doe^Jane"

    with pytest.raises(GeometryError) as caught:
        read_volume(save_series([*THREE, (0, 0, 9)], change=change))

    assert "Doe" not in str(caught.value)
    assert "patient-7" not in str(caught.value)
