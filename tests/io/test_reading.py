from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

from amsam_cli.errors import GeometryError, InputError
from amsam_cli.io import read_grid, read_labels, read_volume
from amsam_cli.volume import PLANES, Plane
from tests.io.test_axes import ALL_48, stored_affine

Save = Callable[..., Path]


def turned(about_x: float, about_z: float) -> NDArray[np.float64]:
    """Return a rotation by two angles in radians, (4, 4)."""
    cx, sx, cz, sz = np.cos(about_x), np.sin(about_x), np.cos(about_z), np.sin(about_z)
    x = np.array([[1, 0, 0, 0], [0, cx, -sx, 0], [0, sx, cx, 0], [0, 0, 0, 1]])
    z = np.array([[cz, -sz, 0, 0], [sz, cz, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return np.asarray(x @ z, dtype=np.float64)


OBLIQUE = turned(0.5, 0.3)
NUMBERS = np.arange(4 * 5 * 6).reshape(4, 5, 6)


def worst_distance_mm(affine: NDArray[np.float64], plane: Plane, path: Path) -> float:
    """Return how far the voxels of `path`, each holding its own number, moved in space by being read."""
    volume = read_volume(path, plane)
    canonical = np.stack(np.unravel_index(np.arange(NUMBERS.size), volume.geometry.shape))
    stored = np.stack(np.unravel_index(volume.data[0].ravel().astype(int), NUMBERS.shape))
    here = volume.geometry.affine[:3, :3] @ canonical + volume.geometry.affine[:3, 3:]
    there = affine[:3, :3] @ stored + affine[:3, 3:]
    return float(np.abs(here - there).max())


@pytest.mark.parametrize("tilt", [np.eye(4), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize(("order", "flips"), ALL_48)
def test_read_volume_keeps_every_voxel_in_its_place(
    save_nifti: Save, order: tuple[int, ...], flips: tuple[int, ...], tilt: NDArray[np.float64]
) -> None:
    affine = (tilt @ stored_affine(order, flips, (0.7, 1.3, 4.0))).astype(np.float32).astype(np.float64)
    path = save_nifti("a.nii", NUMBERS.astype(np.int16), affine)

    distances = [worst_distance_mm(affine, plane, path) for plane in PLANES]

    assert max(distances) < 1e-4


def test_read_volume_has_raw_values_and_their_range(save_nifti: Save) -> None:
    data = np.array([[[-1024.0, 0.5], [3071.0, 7.0]]], dtype=np.float32)

    volume = read_volume(save_nifti("a.nii.gz", data))

    assert volume.data.dtype == np.float32
    assert volume.data.flags.c_contiguous
    assert volume.range == (-1024.0, 3071.0)
    assert sorted(volume.data.ravel().tolist()) == [-1024.0, 0.5, 7.0, 3071.0]


def test_read_volume_applies_the_scale_factors_of_nifti(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.full((2, 2, 2), 3, np.int16), np.eye(4))
    image.header.set_slope_inter(2.0, -10.0)
    nib.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[352:] = np.full(8, 3, np.int16).tobytes()  # as a scanner stores it
    (tmp_path / "a.nii").write_bytes(raw)

    assert read_volume(tmp_path / "a.nii").range == (-4.0, -4.0)


@pytest.mark.parametrize("suffix", ["nrrd", "mha", "mhd", "nhdr"])
def test_read_volume_of_itk_formats_agrees_with_nifti(tmp_path: Path, save_nifti: Save, suffix: str) -> None:
    affine = OBLIQUE @ np.diag([0.7, 1.3, 4.0, 1.0])
    affine[:3, 3] = (5, -6, 7)
    nifti = save_nifti("a.nii", NUMBERS.astype(np.int16), affine)
    other = tmp_path / f"b.{suffix}"
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(other))

    ours, theirs = read_volume(nifti, "axial"), read_volume(other, "axial")

    assert np.array_equal(ours.data, theirs.data)
    assert ours.geometry.matches(theirs.geometry, tolerance_mm=1e-4)
    assert read_grid(other).matches(read_grid(nifti), tolerance_mm=1e-4)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_read_volume_takes_a_picture_for_one_slice(save_picture: Save, name: str) -> None:
    path = save_picture(name, np.full((3, 4), 7, np.uint8))

    volume = read_volume(path, "sagittal")

    assert (volume.data.shape, volume.geometry.unit, volume.range) == ((1, 1, 3, 4), "px", (7.0, 7.0))
    assert read_grid(path).shape == (1, 3, 4)


def test_read_volume_keeps_rows_and_columns_of_a_picture(save_picture: Save) -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000

    assert np.array_equal(read_volume(save_picture("a.png", pixels)).data[0, 0], pixels)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("RGBA", 3), ("P", 3), ("LA", 1), ("1", 1)])
def test_read_volume_gives_colours_as_three_channels(tmp_path: Path, mode: str, channels: int) -> None:
    Image.new("RGB", (4, 3), (200, 200, 200)).convert(mode).save(tmp_path / "a.png")

    assert read_volume(tmp_path / "a.png").data.shape == (channels, 1, 3, 4)


def test_read_volume_accepts_a_fourth_axis_of_one(save_nifti: Save) -> None:
    assert read_volume(save_nifti("a.nii", np.zeros((4, 5, 6, 1), np.uint8))).geometry.shape == (6, 5, 4)


def test_read_volume_refuses_time_series(save_nifti: Save) -> None:
    path = save_nifti("a.nii", np.zeros((4, 5, 6, 3), np.uint8))

    with pytest.raises(InputError, match=r"a\.nii' holds 3 volumes, shape \(4, 5, 6, 3\)"):
        read_volume(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_read_volume_refuses_values_that_are_no_numbers(save_nifti: Save, value: float) -> None:
    data = np.zeros((2, 2, 2), np.float32)
    data[0, 0, 0] = value

    with pytest.raises(InputError, match=r"a\.nii' holds 1 values that are NaN or infinite, of 8"):
        read_volume(save_nifti("a.nii", data))


def test_read_volume_refuses_a_header_without_axes(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), 1)
    nib.save(nib.Nifti1Image(image.dataobj, None, image.header), tmp_path / "a.nii")

    with pytest.raises(GeometryError, match="span no space"):
        read_volume(tmp_path / "a.nii")


def test_read_volume_warns_when_both_forms_differ(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.set_sform(np.diag([1.0, 1.0, 1.0, 1.0]), 1)
    image.set_qform(np.diag([-1.0, -1.0, 1.0, 1.0]), 1)
    nib.save(image, tmp_path / "a.nii")

    volume = read_volume(tmp_path / "a.nii")

    assert "2.0 mm apart; the sform is used" in caplog.text
    assert np.array_equal(volume.source.geometry.affine, np.eye(4)) if volume.source else False


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha", "a.png", "a.tif", "a.dcm"])
def test_read_volume_refuses_a_text_file_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("this is no scan\n" * 50)

    with pytest.raises(InputError, match=f"{name}' (cannot be read as|is no DICOM)"):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha", "a.png"])
def test_read_volume_refuses_a_file_cut_short(tmp_path: Path, save_nifti: Save, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 40)).astype(np.uint8)
    if name.endswith("png"):
        Image.fromarray(noise[0]).save(tmp_path / name)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(noise), str(tmp_path / name))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])

    with pytest.raises(InputError, match=f"{name}' (cannot be read as|is no DICOM)"):
        read_volume(tmp_path / name)


def test_read_volume_alone_says_why_an_mha_is_damaged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((9, 9, 9), np.uint8)), str(tmp_path / "a.mha"))
    (tmp_path / "a.mha").write_bytes((tmp_path / "a.mha").read_bytes()[:-300])

    with pytest.raises(InputError, match="data not read completely"):
        read_volume(tmp_path / "a.mha")

    assert capfd.readouterr().err == ""


def test_read_volume_refuses_a_picture_of_many_pages(tmp_path: Path) -> None:
    page = Image.new("L", (4, 3))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])

    with pytest.raises(InputError, match="3 pages"):
        read_volume(tmp_path / "a.tif")


def test_read_labels_are_whole_numbers_on_the_grid_of_the_scan(save_nifti: Save) -> None:
    affine = stored_affine((2, 0, 1), (-1, 1, -1), (1, 2, 3))
    scan = read_volume(save_nifti("a.nii", NUMBERS.astype(np.float32), affine), "coronal")
    labels = read_labels(save_nifti("b.nii", NUMBERS.astype(np.float32), affine), "coronal")

    assert labels.data.dtype == np.uint16
    assert np.array_equal(labels.data, scan.data[0])
    assert labels.geometry.matches(scan.geometry, tolerance_mm=0)


def test_read_labels_names_values_by_number_unless_told(save_nifti: Save) -> None:
    path = save_nifti("a.nii", np.array([[[0, 1, 5]]], np.uint8))

    assert read_labels(path, "axial", {5: "liver"}).names == {1: "label_1", 5: "liver"}


@pytest.mark.parametrize(
    ("values", "said"),
    [([0.0, 1.5], "such as 1.5"), ([-1.0, 2.0], "from -1 to 2"), ([0.0, 70000.0], "to 70000"), ([np.nan, 1.0], "nan")],
    ids=["fraction", "negative", "too_high", "nan"],
)
def test_read_labels_refuses_what_is_no_label(save_nifti: Save, values: list[float], said: str) -> None:
    path = save_nifti("a.nii", np.array([[values]], np.float32))

    with pytest.raises(InputError, match=said):
        read_labels(path, "axial")


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [([0, 255], (1,)), ([255, 255], (1,)), ([0, 1], (1,)), ([1, 255], (1, 255)), ([0, 0], ())],
    ids=["black_white", "white", "zero_one", "labels", "empty"],
)
def test_read_labels_takes_black_and_white_for_zero_and_one(
    save_picture: Save, pixels: list[int], expected: tuple[int, ...]
) -> None:
    path = save_picture("a.png", np.array([pixels], np.uint8))

    assert read_labels(path, "axial").values() == expected


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_read_labels_accepts_a_grey_mask_saved_in_colours(tmp_path: Path, mode: str) -> None:
    Image.fromarray(np.array([[0, 3]], np.uint8)).convert(mode).save(tmp_path / "a.png")

    assert read_labels(tmp_path / "a.png", "axial").values() == (3,)


def test_read_labels_takes_palette_indices_for_values(tmp_path: Path) -> None:
    mask = Image.fromarray(np.array([[0, 2]], np.uint8)).convert("P")
    mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    mask.save(tmp_path / "a.png")

    assert read_labels(tmp_path / "a.png", "axial").values() == (2,)


def test_read_labels_refuses_a_mask_in_colours(save_picture: Save) -> None:
    path = save_picture("a.png", np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8))

    with pytest.raises(InputError, match="is in colours"):
        read_labels(path, "axial")


def test_read_labels_refuses_a_lossy_mask(save_picture: Save) -> None:
    path = save_picture("a.jpg", np.kron(np.eye(2), np.full((5, 5), 255)).astype(np.uint8))

    with pytest.raises(InputError, match="JPEG"):
        read_labels(path, "axial")
