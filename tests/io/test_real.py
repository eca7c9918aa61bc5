"""The same promises on real scans: axes other than RAS, oblique and tilted series, RGB pictures."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from amsam_cli.errors import GeometryError
from amsam_cli.io import find_shots, read_grid, read_labels, read_volume, write_labels
from amsam_cli.volume import LabelMap, Plane

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = [pytest.mark.real, pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")]


@pytest.mark.parametrize(
    ("name", "plane"),
    [
        ("acdc_heart_mr", "axial"),
        ("msd_hippocampus_mr", "coronal"),
        ("spinalcord_mr", "sagittal"),
        ("pyradiomics_samples", "axial"),
        ("cxr_lungs_xray", "axial"),
        ("ph2_skinlesion", "axial"),
    ],
)
def test_mask_written_on_a_real_scan_is_the_one_that_was_read(tmp_path: Path, name: str, plane: Plane) -> None:
    candidates = {candidate.pair.labels: candidate for candidate in find_shots(DATA / name / "labels", plane=plane)}

    for file, candidate in list(candidates.items())[:4]:
        whole = candidate.scans.labels(candidate.pair)
        source = candidate.read().scan().source
        assert source is not None
        write_labels(whole, tmp_path / file.name, like=source)
        if file.suffix == ".png":
            continue
        mask, original, image = nib.load(tmp_path / file.name), nib.load(file), nib.load(source.path)
        assert np.array_equal(mask.affine, image.affine)
        assert mask.shape == image.shape
        assert np.array_equal(np.asarray(mask.dataobj), np.asarray(original.dataobj))


@pytest.mark.parametrize(
    ("folder", "shape", "spacing"),
    [
        ("dicom_mr_oblique/t1post_oblique", (22, 320, 280), 6.5),
        ("dicom_mr_oblique/dt1_double_oblique_rescale", (7, 512, 512), 6.5),
        ("dicom_mr_hippocrop/study1", (32, 51, 35), 1.0),
    ],
)
def test_real_series_is_read(folder: str, shape: tuple[int, int, int], spacing: float) -> None:
    volume = read_volume(DATA / folder, "axial")

    assert volume.geometry.shape == shape
    assert volume.geometry.spacing[0] == pytest.approx(spacing, abs=1e-3)


@pytest.mark.parametrize(
    ("folder", "said"),
    [("ge_tilt_varspacing", r"1\.08, 4, 7 mm"), ("philips_tilt_phantom", r"tilted by 18\.5 degrees")],
)
def test_real_series_that_is_no_grid_is_refused(folder: str, said: str) -> None:
    with pytest.raises(GeometryError, match=said):
        read_volume(DATA / "dicom_ct_gantrytilt" / folder)


@pytest.mark.parametrize(
    ("seg", "truth"),
    [
        ("liver.dcm", "liver_seg.nrrd"),
        ("sparse-labelmap-noppv.dcm", "sparse_labelmap_noppv_seg.nrrd"),
        ("23x38x3/seg/label.seg", "23x38x3/nrrd/label.nrrd"),
    ],
)
def test_real_segmentation_is_what_its_makers_say(seg: str, truth: str) -> None:
    folder = DATA / "dicom_seg_examples" / "dcmqi"

    labels = read_labels(folder / seg, "axial", on=read_grid(folder / truth))

    assert np.array_equal(labels.data > 0, read_labels(folder / truth, "axial").data > 0)


@pytest.mark.parametrize(
    "series",
    [
        "dicom_mr_oblique/t1post_oblique",
        "dicom_mr_oblique/dt1_double_oblique_rescale",
        "dicom_mr_hippocrop/study2",
        "dicom_seg_examples/dcmqi/ct-3slice",
        "dicom_seg_examples/dcmqi/24x38x3/multiframe",
        "dicom_seg_examples/highdicom/dx_image.dcm",
    ],
)
def test_segmentation_of_a_real_series_is_valid_and_lies_on_it(tmp_path: Path, series: str) -> None:
    volume = read_volume(DATA / series, "coronal")
    bright = (volume.data[0] > np.quantile(volume.data, 0.9)).astype(np.uint16)

    write_labels(LabelMap(bright, volume.geometry, {1: "bright"}), tmp_path / "m.dcm", like=volume.source)

    back = read_labels(tmp_path / "m.dcm", "coronal", on=volume.source.geometry)
    assert np.array_equal(back.data, bright)
    if shutil.which("dciodvfy"):
        ran = subprocess.run(["dciodvfy", tmp_path / "m.dcm"], capture_output=True, text=True, check=False)
        assert [line for line in ran.stderr.splitlines() if line.startswith("Error")] == []
