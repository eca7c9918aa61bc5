from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from amsam_cli.errors import InputError
from amsam_cli.io.formats import dicom_files, format_of, is_sidecar


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii.gz", "nifti"), ("a.NII", "nifti"), ("a.nhdr", "nrrd"), ("a.mhd", "mha"), ("a.b.JPG", "image")],
)
def test_format_of_goes_by_suffix(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / name).touch()

    assert format_of(tmp_path / name) == expected


def test_format_of_knows_dicom_without_a_suffix(save_series: Callable[..., Path]) -> None:
    folder = save_series([(0, 0, 0)])
    file = (folder / "000.dcm").rename(folder / "IM000001")

    assert format_of(file) == "dicom"
    assert format_of(folder) == "dicom"


@pytest.mark.parametrize(("name", "hint"), [("a.hdr", "left"), ("a.txt", "reads NIfTI")], ids=["analyze", "text"])
def test_format_of_refuses_with_the_way_out(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / name).write_text("hello")

    with pytest.raises(InputError, match="no format") as caught:
        format_of(tmp_path / name)

    assert hint in (caught.value.hint or "")


def test_format_of_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lost\.nii' does not exist"):
        format_of(tmp_path / "lost.nii")


def test_dicom_files_pass_over_the_directory_file(save_series: Callable[..., Path]) -> None:
    folder = save_series([(0, 0, 0)])
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "notes.txt").write_text("seen")

    assert [path.name for path in dicom_files(folder)] == ["000.dcm"]


@pytest.mark.parametrize("name", ["m.nii.gz.json", "m.nii.gz.preview.png", "m.png.html", ".hidden.nii.gz"])
def test_sidecars_are_recognised(name: str) -> None:
    assert is_sidecar(Path(name))
