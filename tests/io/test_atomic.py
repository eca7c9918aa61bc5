from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from amsam_cli.errors import InputError, ResourceError
from amsam_cli.io import atomic_folder, atomic_path
from amsam_cli.io.formats import is_sidecar


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


KILLED = """
import os, signal, sys
from pathlib import Path
from amsam_cli.io.atomic import atomic_path
with atomic_path(Path(sys.argv[1])) as hidden:
    hidden.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_process_that_is_killed_leaves_the_old_file_and_no_half_one(tmp_path: Path) -> None:
    (tmp_path / "mask.nii.gz").write_text("old")

    ran = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "mask.nii.gz"], check=False)

    assert ran.returncode == -signal.SIGKILL
    assert (tmp_path / "mask.nii.gz").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if not is_sidecar(path)] == ["mask.nii.gz"]


FULL = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from amsam_cli.errors import ResourceError
from amsam_cli.io import write_labels
from amsam_cli.volume import Geometry, LabelMap, Source
grid = Geometry((40, 40, 40), np.eye(4))
noise = np.random.default_rng(0).integers(0, 200, grid.shape).astype(np.uint16)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for name in sys.argv[1:]:
    try:
        write_labels(LabelMap(noise, grid), Path(name), like=Source(Path("a.mha"), "mha", grid))
    except ResourceError:
        print(Path(name).name)
"""


def test_mask_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path: Path) -> None:
    names = ["mask.nii.gz", "mask.nii", "mask.nrrd", "mask.mha"]
    command = [sys.executable, "-c", FULL, *(tmp_path / "out" / name for name in names)]

    ran = subprocess.run(command, check=False, capture_output=True, text=True)

    assert ran.stdout.split() == names, ran.stderr
    assert list(tmp_path.iterdir()) == []
