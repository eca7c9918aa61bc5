from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from amsam_cli.errors import InputError
from amsam_cli.io import find_cases, read_grid, read_volume
from amsam_cli.io.dicom import files

Save = Callable[..., Path]
THREE = [(0.0, 0.0, 0.0), (0.0, 0.0, 2.0), (0.0, 0.0, 4.0)]


def test_archive_is_read_like_its_folder(save_series: Save, zipped: Save) -> None:
    folder = save_series(THREE)

    packed = read_volume(zipped(folder))

    assert np.array_equal(packed.data, read_volume(folder).data)
    assert packed.geometry.matches(read_volume(folder).geometry, tolerance_mm=0)
    assert read_grid(zipped(folder)).shape == (5, 4, 3)


def test_archive_is_a_case_by_its_own_name(save_series: Save, zipped: Save) -> None:
    path = zipped(save_series(THREE), "patient_3.zip")

    assert [case.name for case in find_cases(path)] == ["patient_3"]


def test_archive_passes_over_files_that_are_no_dicom(save_series: Save, zipped: Save) -> None:
    folder = save_series(THREE)
    (folder / "notes.txt").write_text("hello")

    assert read_volume(zipped(folder)).depth == 3


def archive_of(path: Path, member: zipfile.ZipInfo | str, content: bytes = b"x") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    return path


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("a.dcm")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (link(), "is a link"),
        ("/etc/a.dcm", "leads out"),
        ("../a.dcm", "leads out"),
        ("a/../../b.dcm", "leads out"),
        ("..\\a.dcm", "leads out"),
        ("C:\\a.dcm", "leads out"),
    ],
    ids=["link", "absolute", "above", "within", "backslash", "drive"],
)
def test_archive_with_a_member_that_leads_elsewhere_is_refused(
    tmp_path: Path, member: zipfile.ZipInfo | str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        read_volume(archive_of(tmp_path / "a.zip", member))


@pytest.mark.parametrize(
    ("cap", "value", "said"),
    [
        ("MOST_MEMBERS", 0, "holds 1 files, at most 0"),
        ("MOST_BYTES", 10, "unpacks to 0 GiB"),
        ("SMALL_BYTES", 0, "times its size, at most 200"),
    ],
)
def test_archive_beyond_a_cap_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cap: str, value: int, said: str
) -> None:
    path = archive_of(tmp_path / "bomb.zip", "a.dcm", b"\0" * 1_000_000)
    monkeypatch.setattr(files, cap, value)

    with pytest.raises(InputError, match=said):
        read_volume(path)


def test_archive_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK no archive")

    with pytest.raises(InputError, match=r"a\.zip' cannot be read as a zip archive"):
        read_volume(tmp_path / "a.zip")


@pytest.fixture
def mixed(save_series: Save) -> Path:
    """A folder of two series, numbers 3 and 8."""
    folder = save_series(THREE)

    def numbered(number: int, header: pydicom.Dataset) -> None:
        header.SeriesNumber = 8

    for file in save_series([(0, 0, 0), (0, 0, 5)], folder="other", change=numbered).iterdir():
        file.rename(folder / f"other_{file.name}")
    return folder


@pytest.mark.parametrize(("series", "depth"), [("3", 3), ("8", 2)])
def test_series_is_chosen_by_its_number(mixed: Path, series: str, depth: int) -> None:
    assert read_volume(mixed, series=series).depth == depth
    assert find_cases(mixed, series=series)[0].series == series


def test_series_is_chosen_by_the_end_of_its_uid(mixed: Path) -> None:
    source = read_volume(mixed, series="8").source

    assert source is not None
    assert read_volume(mixed, series=source.series[-9:]).depth == 2


def test_series_that_is_not_there_is_refused_with_those_that_are(mixed: Path) -> None:
    with pytest.raises(InputError, match=r"holds no series 4; it holds series 3: CT, 3 files .* series 8: CT, 2 files"):
        read_volume(mixed, series="4")


def test_list_of_series_shows_no_description(mixed: Path, save_series: Save) -> None:
    def described(number: int, header: pydicom.Dataset) -> None:
        header.SeriesDescription = "for Jane Doe"

    (save_series([(0, 0, 0)], folder="third", change=described) / "000.dcm").rename(mixed / "third.dcm")

    with pytest.raises(InputError) as caught:
        read_volume(mixed)

    assert "Jane" not in str(caught.value)
