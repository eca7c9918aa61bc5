from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from amsam_cli.errors import GeometryError, InputError, ResourceError
from amsam_cli.io import NiftiWriter, read_labels, read_volume, write_labels, write_volume
from amsam_cli.volume import Geometry, LabelMap, Plane, Source, Volume
from tests.io.test_axes import ALL_48, stored_affine
from tests.io.test_reading import NUMBERS, OBLIQUE

Save = Callable[..., Path]


def labels_like(volume: Volume) -> LabelMap:
    """Return a label map that holds the scan's own values."""
    return LabelMap(volume.data[0].astype(np.uint16), volume.geometry, {1: "one"})


def source_of(volume: Volume) -> Source:
    assert volume.source is not None
    return volume.source


@pytest.mark.parametrize("tilt", [np.eye(4), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize(("order", "flips"), ALL_48)
def test_write_labels_gives_back_grid_and_values_bit_for_bit(
    save_nifti: Save, tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...], tilt: NDArray[np.float64]
) -> None:
    path = save_nifti("a.nii", NUMBERS.astype(np.int16), tilt @ stored_affine(order, flips, (0.7, 1.3, 4.0)))
    plane: Plane = "sagittal" if order[0] else "coronal"
    scan = read_volume(path, plane)

    write_labels(labels_like(scan), tmp_path / "mask.nii", like=source_of(scan))

    image, mask = nib.load(path), nib.load(tmp_path / "mask.nii")
    assert np.array_equal(mask.affine, image.affine)
    assert np.array_equal(np.asarray(mask.dataobj), NUMBERS)
    assert mask.header["qform_code"] > 0
    assert np.allclose(mask.header.get_qform(), mask.affine, atol=1e-4)


@pytest.mark.parametrize("forms", ["sform", "qform", "both", "none"])
def test_write_labels_places_the_mask_as_every_program_places_the_scan(tmp_path: Path, forms: str) -> None:
    affine = OBLIQUE @ np.diag([0.7, 1.3, 4.0, 1.0])
    image = nib.Nifti1Image(NUMBERS.astype(np.int16), affine)
    image.set_sform(affine if forms in ("sform", "both") else None, 1 if forms in ("sform", "both") else 0)
    image.set_qform(affine, 1 if forms in ("qform", "both") else 0)
    nib.save(image, tmp_path / "a.nii")
    scan = read_volume(tmp_path / "a.nii")

    write_labels(labels_like(scan), tmp_path / "mask.nii", like=source_of(scan))

    for suffix in ("a.nii", "mask.nii"):
        seen = sitk.ReadImage(str(tmp_path / suffix))
        placed = [*seen.GetOrigin(), *seen.GetDirection(), *seen.GetSpacing()]
        if suffix == "a.nii":
            expected = placed
    assert placed == pytest.approx(expected, abs=1e-5)
    assert np.allclose(nib.load(tmp_path / "mask.nii").affine, nib.load(tmp_path / "a.nii").affine, atol=1e-5)


def test_write_labels_keeps_a_sheared_affine_and_codes_no_qform(save_nifti: Save, tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.3
    scan = read_volume(save_nifti("a.nii", NUMBERS.astype(np.int16), affine))

    write_labels(labels_like(scan), tmp_path / "mask.nii", like=source_of(scan))

    mask = nib.load(tmp_path / "mask.nii")
    assert np.array_equal(mask.affine, np.float32(affine))
    assert mask.header["qform_code"] == 0


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "nrrd", "mha"])
def test_write_labels_of_every_format_lie_on_the_scan(save_nifti: Save, tmp_path: Path, suffix: str) -> None:
    affine = OBLIQUE @ np.diag([-0.7, -1.3, 4.0, 1.0])
    affine[:3, 3] = (1 / 3, -250.125, 1234.56789)
    scan = read_volume(save_nifti("a.nii", NUMBERS.astype(np.int16), affine), "coronal")
    path = tmp_path / f"mask.{suffix}"

    write_labels(labels_like(scan), path, like=source_of(scan))

    mask = read_labels(path, "coronal")
    assert np.array_equal(mask.data, scan.data[0])
    assert mask.geometry.matches(scan.geometry, tolerance_mm=1e-4)
    assert mask.names[1] == "one"
    assert sitk.ReadImage(str(path)).GetPixelIDTypeAsString() == "8-bit unsigned integer"


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha", "png"])
@pytest.mark.parametrize(("highest", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_write_labels_uses_the_smallest_integers(
    save_picture: Save, tmp_path: Path, suffix: str, highest: int, dtype: type[np.generic]
) -> None:
    scan = read_volume(save_picture("a.png", np.zeros((2, 3), np.uint8)))
    values = np.array([[[0, 1, 2], [3, 4, highest]]], np.uint16)
    path = tmp_path / f"mask.{suffix}"

    write_labels(LabelMap(values, scan.geometry), path, like=source_of(scan))

    assert read_labels(path, "axial").data.ravel().tolist() == values.ravel().tolist()
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).dtype == dtype


def test_write_labels_on_one_slice_keep_three_axes(save_nifti: Save, tmp_path: Path) -> None:
    scan = read_volume(save_nifti("a.nii", np.zeros((4, 5, 1), np.uint8)))

    write_labels(labels_like(scan), tmp_path / "mask.nii", like=source_of(scan))

    assert nib.load(tmp_path / "mask.nii").shape == (4, 5, 1)


def test_write_labels_is_the_same_file_every_time(save_nifti: Save, tmp_path: Path) -> None:
    scan = read_volume(save_nifti("a.nii.gz", NUMBERS.astype(np.int16)))

    for name in ("one.nii.gz", "two.nii.gz"):
        write_labels(labels_like(scan), tmp_path / name, like=source_of(scan))

    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


def test_write_labels_leaves_the_patients_header_behind(tmp_path: Path) -> None:
    image = nib.Nifti1Image(NUMBERS.astype(np.int16), np.eye(4))
    image.header["descrip"], image.header["db_name"] = b"Jane Doe", b"Doe"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(image, tmp_path / "a.nii")
    scan = read_volume(tmp_path / "a.nii")

    write_labels(labels_like(scan), tmp_path / "mask.nii", like=source_of(scan))

    assert b"Doe" not in (tmp_path / "mask.nii").read_bytes()


def test_write_labels_works_when_the_scan_is_gone(save_nifti: Save, tmp_path: Path) -> None:
    path = save_nifti("a.nii", NUMBERS.astype(np.int16), np.diag([1.0, 2.0, 3.0, 1.0]))
    scan = read_volume(path)
    path.unlink()

    write_labels(labels_like(scan), tmp_path / "mask.nii", like=source_of(scan))

    assert np.array_equal(nib.load(tmp_path / "mask.nii").affine, np.diag([1.0, 2.0, 3.0, 1.0]))


def test_write_labels_refuses_another_grid(save_nifti: Save, tmp_path: Path) -> None:
    scan = read_volume(save_nifti("a.nii", NUMBERS.astype(np.int16)))
    other = LabelMap(np.zeros((1, 2, 3), np.uint16), Geometry((1, 2, 3), np.eye(4)))

    with pytest.raises(GeometryError, match=r"\(1, 2, 3\) do not lie on the grid of 'a\.nii', \(6, 5, 4\)"):
        write_labels(other, tmp_path / "mask.nii", like=source_of(scan))


@pytest.mark.parametrize(
    ("name", "said"),
    [("mask.xyz", "no format"), ("mask.jpg", "no format"), ("mask.png", r"volume of shape \(4, 5, 6\)")],
)
def test_write_labels_refuses_what_cannot_hold_them(save_nifti: Save, tmp_path: Path, name: str, said: str) -> None:
    scan = read_volume(save_nifti("in/a.nii", NUMBERS.astype(np.int16)))

    with pytest.raises(InputError, match=said):
        write_labels(labels_like(scan), tmp_path / "out" / name, like=source_of(scan))

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ResourceError, "disk is full"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), InputError, "Permission denied"),
        (RuntimeError("ITK gave up"), ResourceError, "ITK gave up"),
    ],
    ids=["full", "forbidden", "other"],
)
def test_write_labels_leaves_nothing_when_writing_fails(
    save_nifti: Save,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    expected: type[Exception],
    said: str,
) -> None:
    def fail(self: object, filename: str, **options: object) -> None:
        Path(filename).write_text("half")
        raise error

    scan = read_volume(save_nifti("a.nii", NUMBERS.astype(np.int16)))
    monkeypatch.setattr(NiftiWriter, "write", fail)

    with pytest.raises(expected, match=said):
        write_labels(labels_like(scan), tmp_path / "out" / "mask.nii", like=source_of(scan))

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "nrrd", "mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
def test_write_volume_gives_back_what_was_made_in_memory(tmp_path: Path, suffix: str, dtype: type[np.generic]) -> None:
    top = {np.uint8: 255, np.int16: -1024, np.uint16: 60000, np.float32: 0.5}[dtype]
    data = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    data[0, 0, 0, 0] = top
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 5, -0.5, -0.25, 1  # D up, H back, W left
    made = Volume(data, Geometry((2, 3, 4), affine), (float(data.min()), float(data.max())))

    write_volume(made, tmp_path / f"a.{suffix}")

    read = read_volume(tmp_path / f"a.{suffix}")
    assert np.array_equal(read.data, data)
    assert read.geometry.matches(made.geometry, tolerance_mm=1e-5)
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"a.{suffix}"))).dtype == dtype


@pytest.mark.parametrize("channels", [1, 3])
def test_write_volume_gives_back_a_picture(tmp_path: Path, channels: int) -> None:
    data = np.arange(channels * 6, dtype=np.float32).reshape(channels, 1, 2, 3)
    made = Volume(data, Geometry.of_picture(2, 3), (0.0, float(data.max())))

    write_volume(made, tmp_path / "a.png")

    assert np.array_equal(read_volume(tmp_path / "a.png").data, data)


def test_write_volume_refuses_fractions_in_a_picture(tmp_path: Path) -> None:
    made = Volume(np.full((1, 1, 2, 2), 0.5, np.float32), Geometry.of_picture(2, 2), (0.5, 0.5))

    with pytest.raises(InputError, match=r"a\.png' cannot hold these values"):
        write_volume(made, tmp_path / "a.png")


def test_write_volume_gives_back_a_scan_as_stored(save_nifti: Save, tmp_path: Path) -> None:
    path = save_nifti("a.nii", NUMBERS.astype(np.int16), stored_affine((1, 2, 0), (-1, 1, -1), (1, 2, 3)))
    scan = read_volume(path)

    write_volume(replace(scan, data=scan.data * 2), tmp_path / "b.nii")

    assert np.array_equal(np.asarray(nib.load(tmp_path / "b.nii").dataobj), NUMBERS * 2)
    assert np.array_equal(nib.load(tmp_path / "b.nii").affine, nib.load(path).affine)
