from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from monai.data import ImageReader, ImageWriter
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, SaveImaged

from amsam_cli.io import DicomSeriesReader, ItkReader, ItkWriter, NiftiReader, NiftiWriter, PictureReader, read_volume
from tests.io.test_reading import NUMBERS, OBLIQUE

Save = Callable[..., Path]
AFFINE = OBLIQUE @ np.diag([-0.7, 1.3, 4.0, 1.0])

# What MONAI itself says on a machine without optional packages.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


@pytest.fixture
def nifti(save_nifti: Save) -> Path:
    return save_nifti("a.nii.gz", NUMBERS.astype(np.int16), AFFINE)


def pipeline(reader: type[ImageReader], writer: type[ImageWriter], folder: Path, suffix: str, axcodes: str) -> Compose:
    """Return a user's own MONAI pipeline that loads, reorients and saves."""
    turn = Orientationd("scan", axcodes, labels=None)
    save = SaveImaged(
        "scan",
        output_dir=folder,
        output_ext=suffix,
        output_dtype=np.int16,
        output_postfix="out",
        separate_folder=False,
        resample=False,
        print_log=False,
        writer=writer,
    )
    return Compose([LoadImaged("scan", reader=reader), EnsureChannelFirstd("scan"), turn, save])


def test_nifti_reader_and_writer_serve_in_a_users_pipeline(nifti: Path, tmp_path: Path) -> None:
    pipeline(NiftiReader, NiftiWriter, tmp_path / "out", ".nii.gz", "RAS")({"scan": nifti})

    written, image = nib.load(tmp_path / "out" / "a_out.nii.gz"), nib.as_closest_canonical(nib.load(nifti))
    assert np.array_equal(np.asarray(written.dataobj), np.asarray(image.dataobj))
    assert np.allclose(written.affine, image.affine, atol=1e-5)
    assert np.allclose(written.header.get_qform(), written.affine, atol=1e-4)


def test_itk_reader_and_writer_serve_in_a_users_pipeline(nifti: Path, tmp_path: Path) -> None:
    scan = tmp_path / "b.nrrd"
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(scan))

    pipeline(ItkReader, ItkWriter, tmp_path / "out", ".mha", "LPS")({"scan": scan})

    written, whole = read_volume(tmp_path / "out" / "b_out.mha", "axial"), read_volume(nifti, "axial")
    assert np.array_equal(written.data, whole.data)
    assert written.geometry.matches(whole.geometry, tolerance_mm=1e-4)


def test_dicom_reader_serves_in_a_users_pipeline(save_series: Save, tmp_path: Path) -> None:
    folder = save_series([(0, 0, 4), (0, 0, 0), (0, 0, 2)])

    pipeline(DicomSeriesReader, NiftiWriter, tmp_path / "out", ".nii.gz", "LPS")({"scan": folder})

    written, whole = read_volume(tmp_path / "out" / "series_out.nii.gz", "axial"), read_volume(folder, "axial")
    assert np.array_equal(written.data, whole.data)
    assert written.geometry.matches(whole.geometry, tolerance_mm=1e-4)


def test_picture_reader_serves_in_a_users_pipeline(save_picture: Save) -> None:
    path = save_picture("a.png", np.arange(12, dtype=np.uint8).reshape(3, 4))

    loaded = Compose([LoadImaged("scan", reader=PictureReader), EnsureChannelFirstd("scan")])({"scan": path})

    assert loaded["scan"].shape == (1, 4, 3)


def test_writer_resamples_onto_the_original_grid_when_asked(nifti: Path, tmp_path: Path) -> None:
    save = SaveImaged(
        "scan",
        output_dir=tmp_path / "out",
        output_dtype=np.int16,
        output_postfix="out",
        separate_folder=False,
        resample=True,
        print_log=False,
        writer=NiftiWriter,
    )
    turn = Orientationd("scan", "PIR", labels=None)
    steps = [LoadImaged("scan", reader=NiftiReader), EnsureChannelFirstd("scan"), turn, save]

    Compose(steps)({"scan": nifti})

    written = nib.load(tmp_path / "out" / "a_out.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), NUMBERS)
    assert np.allclose(written.affine, nib.load(nifti).affine, atol=1e-5)


def test_nifti_reader_keeps_the_sform_where_monai_rewrites_it(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
    image.header.set_qform(np.diag([1.0, 1.0, 1.0, 1.0]), 1)
    image.header.set_sform(np.diag([2.0, 2.0, 2.0, 1.0]), 1)
    nib.save(image, tmp_path / "a.nii")

    assert np.array_equal(NiftiReader().read(tmp_path / "a.nii").affine, np.diag([2.0, 2.0, 2.0, 1.0]))
