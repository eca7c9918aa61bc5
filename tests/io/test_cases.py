from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from amsam_cli.errors import InputError
from amsam_cli.io import Case, find_cases


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def test_find_cases_takes_a_file_for_one_case(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz")

    assert find_cases(tmp_path / "a.nii.gz") == [Case(tmp_path / "a.nii.gz", "a")]


def test_find_cases_takes_a_dicom_folder_for_one_case(save_series: Callable[..., Path]) -> None:
    folder = save_series([(0, 0, 0), (0, 0, 2)])

    assert find_cases(folder) == [Case(folder, "series")]


def test_find_cases_finds_scans_in_order_and_no_sidecars(tmp_path: Path, save_series: Callable[..., Path]) -> None:
    touch(tmp_path, "b.nii.gz", "a.png", "b.nii.gz.json", "a.png.preview.png", "a.png.html", "notes.txt")
    save_series([(0, 0, 0)])

    assert [case.name for case in find_cases(tmp_path)] == ["a", "b", "series"]


def test_find_cases_refuses_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no scan"):
        find_cases(tmp_path)


def test_find_cases_refuses_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        find_cases(tmp_path / "lost")


def test_find_cases_refuses_scans_whose_results_share_a_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "a.nii.gz")

    with pytest.raises(InputError, match=r"'a\.nii' and 'a\.nii\.gz'"):
        find_cases(tmp_path)
