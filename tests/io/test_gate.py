from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amsam_cli.errors import InputError
from amsam_cli.io import Candidate, find_shots, inspect_shots
from amsam_cli.io.gate import check_grid, check_modalities, check_scan, check_shots, check_values
from amsam_cli.volume import Geometry, Volume

Save = Callable[..., Path]
ONE = np.pad(np.ones((2, 2, 2), np.uint8), 2)


def scan(seed: int, low: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, 100, (6, 6, 6)).astype(np.int16)


def problems(folder: Path) -> list[tuple[str, str]]:
    return [(finding.file, finding.problem) for finding in inspect_shots(folder).findings]


@pytest.fixture
def good(save_nifti: Save, tmp_path: Path) -> Path:
    """A folder of two pairs without a fault."""
    for seed, name in enumerate("ab"):
        save_nifti(f"images/{name}.nii", scan(seed), np.diag([1, 1, 2.0, 1]))
        save_nifti(f"labels/{name}.nii", ONE, np.diag([1, 1, 2.0, 1]))
    return tmp_path


def test_set_without_fault_has_no_finding(good: Path) -> None:
    found = inspect_shots(good)

    assert found.findings == ()
    assert check_shots(candidate.read() for candidate in found.usable()) == []


def test_every_file_that_cannot_be_used_is_listed(good: Path, save_nifti: Save) -> None:
    save_nifti("images/c.nii", scan(2), np.diag([1, 1, 2.0, 1]))
    (good / "labels" / "c.nii").write_text("no voxels")
    save_nifti("images/d.nii", scan(3), np.diag([1, 1, 2.0, 1]))
    save_nifti("labels/d.nii", ONE + 0.5, np.diag([1, 1, 2.0, 1]))

    found = inspect_shots(good)

    assert [finding.file for finding in found.findings if finding.is_fatal] == ["c.nii", "d.nii"]
    assert not found.is_usable
    with pytest.raises(InputError, match=r"2 of 4 label files cannot be used\. The first: .*c\.nii"):
        found.usable()


def test_empty_label_file_among_others_is_passed_over_and_said(good: Path, save_nifti: Save) -> None:
    save_nifti("images/c.nii", scan(2), np.diag([1, 1, 2.0, 1]))
    save_nifti("labels/c.nii", 0 * ONE, np.diag([1, 1, 2.0, 1]))

    assert problems(good) == [("c.nii", "is empty: no voxel holds a label")]
    assert {candidate.pair.image.name for candidate in find_shots(good)} == {"a.nii", "b.nii"}


def test_one_image_under_two_names_is_said(good: Path) -> None:
    (good / "images" / "b.nii").write_bytes((good / "images" / "a.nii").read_bytes())

    assert problems(good) == [("b.nii", "is the same image as 'a.nii', and counts as another patient")]


def test_labels_on_another_grid_are_said(good: Path, save_nifti: Save) -> None:
    save_nifti("labels/a.nii", np.ones((3, 3, 3), np.uint8), np.diag([2, 2, 4.0, 1]))

    ((file, problem),) = problems(good)

    assert file == "a.nii"
    assert problem.startswith("lies on another grid (3 x 3 x 3 voxels of 2 x 2 x 4 mm) than its image")


@pytest.mark.parametrize(
    ("spacing", "axis", "said"),
    [
        ((1, 1, 13), 2, "slices 13 mm apart of 1 mm pixels"),
        ((0.2, 0.2, 5), 2, "slices 5 mm apart of 0.2 mm pixels"),
        ((0.0005, 0.0005, 0.001), 2, "voxels of 0.0005 x 0.0005 x 0.001 mm, which is suspicious"),
        ((40, 40, 40), None, "voxels of 40 x 40 x 40 mm, which is suspicious"),
        ((1, 1, 1), 2, "gives neither spacing nor orientation"),
        ((1, 1, 5), 2, ""),
    ],
    ids=["thick", "far-apart", "metres", "coarse", "no-header", "fine"],
)
def test_odd_spacing_is_said(spacing: tuple[float, ...], axis: int | None, said: str) -> None:
    found = check_grid("a.nii", Geometry((9, 9, 9), np.diag([*spacing, 1.0])), axis=axis)

    assert [said in finding.problem for finding in found] == ([True] if said else [])


def test_picture_has_no_odd_spacing() -> None:
    assert check_grid("a.png", Geometry.of_picture(4, 4), axis=0) == []


def test_constant_scan_is_refused() -> None:
    volume = Volume(np.full((1, 2, 2, 2), 7, np.float32), Geometry((2, 2, 2), np.eye(4)), (7.0, 7.0))

    with pytest.raises(InputError, match=r"'a\.nii' is constant: every voxel holds 7"):
        check_scan("a.nii", volume)


def test_constant_scan_is_refused_before_it_is_learned_from(good: Path, save_nifti: Save) -> None:
    save_nifti("images/a.nii", np.full((6, 6, 6), 3, np.int16), np.diag([1, 1, 2.0, 1]))
    chosen: list[Candidate] = find_shots(good)

    with pytest.raises(InputError, match=r"'a\.nii' is constant"):
        check_shots(candidate.read() for candidate in chosen)


def test_modalities_that_are_mixed_are_said() -> None:
    (finding,) = check_modalities([("a", "CT"), ("b", "CT"), ("c", "MR"), ("d", "")])

    assert (finding.file, finding.problem) == ("c", "is MR, other scans are CT")


def test_values_that_look_mixed_are_said() -> None:
    (finding,) = check_values([("a", (-1000.0, 900.0)), ("b", (-1024.0, 900.0)), ("c", (0.0, 400.0))])

    assert finding.file == "c"
    assert check_values([("a", (-1000.0, 900.0)), ("b", (-1024.0, 900.0))]) == []
