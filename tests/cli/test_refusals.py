from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import assert_two_lines
from tests.conftest import AFFINE, save_balls, save_nifti
from tests.scans import ball_scan


def truncated(folder: Path) -> Path:
    save_balls(folder, 7)
    path = folder / "images" / "case_7.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    return path


def text_named_nifti(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "notes.nii.gz").write_text("these are no voxels\n" * 50)
    return folder / "notes.nii.gz"


def missing(folder: Path) -> Path:
    return folder / "missing.nii.gz"


def empty_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def unknown_format(folder: Path) -> Path:
    folder.mkdir()
    (folder / "scan.xyz").write_bytes(b"?")
    return folder / "scan.xyz"


@pytest.mark.parametrize("make", [truncated, text_named_nifti, missing, empty_folder, unknown_format])
def test_segment_refuses_a_scan_that_cannot_be_read(amsam, adapter_folder, tmp_path, make):
    scan = make(tmp_path / "bad")

    ran = amsam("segment", scan, "-o", "out/mask.nii.gz")

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert ran.out == ""
    assert not Path("out").exists()


def nothing_inside(folder: Path) -> None:
    folder.mkdir()


def no_images(folder: Path) -> None:
    save_nifti(folder / "case_0.nii.gz", ball_scan(0)[1].data.astype(np.uint8))


def elsewhere(folder: Path) -> None:
    save_balls(folder, 0)
    far_away = AFFINE + np.array([[0, 0, 0, 900.0], [0] * 4, [0] * 4, [0] * 4])
    save_nifti(folder / "labels" / "case_0.nii.gz", np.ones((9, 48, 48), dtype=np.uint8), far_away)


def no_label(folder: Path) -> None:
    save_balls(folder, 0, annotated=slice(0, 0))


def broken_labels(folder: Path) -> None:
    save_balls(folder, 0)
    (folder / "labels" / "case_0.nii.gz").write_text("no voxels")


def broken_image(folder: Path) -> None:
    save_balls(folder, 0)
    path = folder / "images" / "case_0.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])


def not_there(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    "make", [not_there, nothing_inside, no_images, elsewhere, no_label, broken_labels, broken_image]
)
def test_adapt_refuses_shots_that_cannot_be_used(amsam, toy, tmp_path, make):
    make(tmp_path / "bad")

    ran = amsam("adapt", "bad", "--steps", 0, "--no-forecast")

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert ran.out == ""
    assert not Path("amsam_adapter").exists()


def foreign_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")


def damaged_adapter(folder: Path) -> None:
    folder.mkdir()
    (folder / "amsam.json").write_text("{")


@pytest.mark.parametrize("make", [not_there, foreign_folder, damaged_adapter])
def test_segment_and_info_refuse_a_wrong_adapter(amsam, scans_folder, tmp_path, make):
    make(tmp_path / "wrong")

    ran = amsam("segment", scans_folder / "images" / "case_7.nii.gz", "-a", "wrong", "-o", "out/mask.nii.gz")

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert not Path("out").exists()
    assert amsam("info", "wrong").code == 2


@pytest.mark.parametrize("output", ["mask.xyz", "mask.dcm", "bad.json"])
def test_segment_refuses_a_format_it_does_not_write(amsam, adapter_folder, scans_folder, output):
    ran = amsam("segment", scans_folder / "images" / "case_7.nii.gz", "-o", output)

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert not Path(output).exists()


def test_evaluate_refuses_grids_that_differ(amsam, scans_folder, tmp_path):
    other = save_nifti(tmp_path / "other.nii.gz", np.ones((4, 8, 8), dtype=np.uint8))

    ran = amsam("evaluate", other, scans_folder / "labels" / "case_7.nii.gz", "--csv", "a.csv")

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert not Path("a.csv").exists()


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_adapt_refuses_a_device_that_is_not_there(amsam, shots_folder, device):
    ran = amsam("adapt", shots_folder, "-d", device, "--steps", 0)

    assert ran.code == 2
    assert_two_lines(ran.err)
