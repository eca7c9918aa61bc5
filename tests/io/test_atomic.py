from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from amsam_cli.errors import InputError, ResourceError
from amsam_cli.io import atomic_folder, atomic_path


def fail_halfway(path: Path, error: type[BaseException]) -> None:
    with atomic_path(path) as hidden:
        hidden.write_text("half")
        raise error


def test_atomic_path_leaves_the_whole_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "new" / "a.json") as hidden:
        hidden.write_text("whole")
        assert not (tmp_path / "new" / "a.json").exists()

    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]
    assert (tmp_path / "new" / "a.json").read_text() == "whole"


def test_atomic_path_ends_like_its_target(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.nii.gz") as hidden:
        assert hidden.name.endswith(".nii.gz")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt], ids=["error", "ctrl_c"])
def test_atomic_path_leaves_nothing_when_the_block_fails(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fail_halfway(tmp_path / "deep" / "er" / "a.json", error)

    assert list(tmp_path.iterdir()) == []


def test_atomic_path_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")

    with pytest.raises(ValueError):
        fail_halfway(target, ValueError)

    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_path_says_that_the_disk_is_full(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="disk is full"), atomic_path(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert list(tmp_path.iterdir()) == []


def test_atomic_path_refuses_a_place_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(InputError, match="cannot be written"), atomic_path(tmp_path / "file" / "a.json"):
        pass


def test_atomic_path_refuses_the_name_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"), atomic_path(tmp_path):
        pass


def test_atomic_path_lets_errors_about_other_files_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.json"):
        (tmp_path / "b.json").read_text()


def test_atomic_folder_replaces_a_folder_of_ours(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "amsam.json").write_text("old")

    with atomic_folder(target, marker="amsam.json") as hidden:
        (hidden / "amsam.json").write_text("new")

    assert (target / "amsam.json").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_folder_keeps_the_old_one_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "amsam.json").write_text("old")

    with pytest.raises(ValueError), atomic_folder(target, marker="amsam.json"):
        raise ValueError

    assert (target / "amsam.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_folder_refuses_a_folder_of_someone_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(InputError, match="did not write"), atomic_folder(tmp_path, marker="amsam.json"):
        pass

    assert (tmp_path / "thesis.txt").read_text() == "years of work"
