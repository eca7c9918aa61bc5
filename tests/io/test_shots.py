from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from amsam_cli.errors import InputError
from amsam_cli.io import find_shots, read_slice_list, read_volume
from amsam_cli.io import shots as shots_module
from amsam_cli.volume import Volume
from tests.io.test_axes import stored_affine

Save = Callable[..., Path]

DOWN = np.diag([-1.0, -1.0, -2.0, 1.0])  # LPI: the file's last slice is the canonical first


@pytest.fixture
def one_case(save_nifti: Save, tmp_path: Path) -> Path:
    """Return a set of one scan of 10 slices, of which 2 and 7 of the file are annotated with labels 1 and 3."""
    scan = np.arange(20 * 20 * 10, dtype=np.float32).reshape(20, 20, 10)
    labels = np.zeros((20, 20, 10), np.uint8)
    labels[4:14, 5:15, [2, 7]] = 1
    labels[5, 6, 7] = 3
    save_nifti("images/case_03.nii.gz", scan, DOWN)
    save_nifti("labels/case_03.nii.gz", labels, DOWN)
    return tmp_path


def test_find_shots_gives_every_annotated_slice(one_case: Path) -> None:
    first, second = find_shots(one_case)

    assert (first.origin, second.origin) == ("case_03.nii.gz:7", "case_03.nii.gz:2")
    assert (first.index, second.index, first.depth, first.plane) == (2, 7, 10, "axial")
    assert (dict(first.areas), dict(second.areas)) == ({1: 99, 3: 1}, {1: 100})
    assert first.position == pytest.approx(2 / 9)


def test_candidate_reads_its_slice_and_its_whole_scan(one_case: Path) -> None:
    shot = find_shots(one_case, names={3: "tumour"})[0].read()

    assert shot.volume.data.shape == (1, 1, 20, 20)
    assert shot.volume.data[0, 0, 0, 0] == 7  # the file's voxel (0, 0, 7)
    assert shot.volume.range == (0.0, 3999.0)
    assert shot.labels.values() == (1, 3)
    assert shot.labels.names == {1: "label_1", 3: "tumour"}
    assert shot.scan().depth == 10
    assert (shot.patient, shot.origin) == ("case_03", "case_03.nii.gz:7")


def test_scan_is_read_once_for_all_of_its_slices(one_case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = read_volume

    def counted(path: Path, plane: object = None, *, series: str | None = None) -> Volume:
        read.append(path)
        return original(path, plane, series=series)  # type: ignore[arg-type]

    monkeypatch.setattr(shots_module, "read_volume", counted)

    for candidate in find_shots(one_case):
        candidate.read().scan()

    assert len(read) == 1


def test_origin_counts_in_the_order_of_the_image_file(save_nifti: Save, tmp_path: Path) -> None:
    scan, labels = np.zeros((6, 6, 8), np.uint8), np.zeros((6, 6, 8), np.uint8)
    labels[1:5, 1:5, 2] = 1
    up = np.diag([-1.0, -1.0, 2.0, 1.0])
    up[2, 3] = -14.0  # the same voxels, counted from below
    save_nifti("images/a.nii", scan, DOWN)
    save_nifti("labels/a.nii", labels, up)

    (candidate,) = find_shots(tmp_path)

    assert candidate.origin == "a.nii:5"
    assert candidate.read().labels.values() == (1,)


def test_find_shots_slices_sparse_labels_as_they_were_drawn(save_nifti: Save, tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[[3, 11], 4:16, 4:16] = 1
    save_nifti("images/a.nii", np.zeros((20, 20, 20), np.uint8))
    save_nifti("labels/a.nii", labels)

    found = find_shots(tmp_path)

    assert {candidate.plane for candidate in found} == {"sagittal"}
    assert sorted(candidate.origin for candidate in found) == ["a.nii:11", "a.nii:3"]


def test_find_shots_slices_as_told(one_case: Path) -> None:
    found = find_shots(one_case, plane="coronal")

    assert (len(found), found[0].depth, found[0].plane) == (10, 20, "coronal")


def test_find_shots_of_pictures_have_no_index(save_picture: Save, tmp_path: Path) -> None:
    save_picture("images/a.png", np.zeros((4, 5, 3), np.uint8))
    save_picture("labels/a.png", np.array([[0, 0, 255, 255, 255]] * 4, np.uint8))

    (candidate,) = find_shots(tmp_path)

    assert (candidate.origin, candidate.depth, candidate.position) == ("a.png", 1, 0.5)
    assert dict(candidate.areas) == {1: 12}
    assert candidate.read().volume.data.shape == (3, 1, 4, 5)


def test_find_shots_refuses_a_set_in_two_planes(save_nifti: Save, tmp_path: Path) -> None:
    for name, affine in [("a", np.diag([1.0, 1.0, 5.0, 1.0])), ("b", np.diag([5.0, 1.0, 1.0, 1.0]))]:
        save_nifti(f"images/{name}.nii", np.zeros((6, 6, 6), np.uint8), affine)
        save_nifti(f"labels/{name}.nii", np.ones((6, 6, 6), np.uint8), affine)

    with pytest.raises(InputError, match=r"'a\.nii' looks axial but 'b\.nii' looks sagittal"):
        find_shots(tmp_path)


def test_find_shots_places_a_mask_of_another_shape_and_says_so(
    save_nifti: Save, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_nifti("images/a.nii.gz", np.zeros((5, 6, 8), np.uint8), np.diag([1.0, 1.0, 2.0, 1.0]))
    up = np.diag([1.0, 1.0, 2.0, 1.0])
    up[2, 3] = 6.0  # drawn on slices 3 to 5 of the image
    save_nifti("labels/a_seg.nii.gz", np.ones((5, 6, 3), np.uint8), up)

    candidates = find_shots(tmp_path)

    assert [candidate.origin for candidate in candidates] == [f"a.nii.gz:{k}" for k in (3, 4, 5)]
    assert "covers another part of space" in caplog.text


def test_find_shots_refuses_a_mask_elsewhere(save_nifti: Save, tmp_path: Path) -> None:
    moved = np.eye(4)
    moved[0, 3] = 12.5
    save_nifti("images/a.nii", np.zeros((5, 6, 7), np.uint8))
    save_nifti("labels/a.nii", np.ones((5, 6, 7), np.uint8), moved)

    with pytest.raises(InputError, match=r"Mask 'a\.nii' and its image do not overlap") as caught:
        find_shots(tmp_path)

    assert "--dry-run" in (caught.value.hint or "")


def test_find_shots_accepts_a_mask_stored_in_other_axes(save_nifti: Save, tmp_path: Path) -> None:
    turned = stored_affine((2, 0, 1), (1, 1, 1), (1, 1, 1))
    straight = stored_affine((0, 1, 2), (1, 1, 1), (1, 1, 1))
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[1, 2, 3] = 4
    save_nifti("images/a.nii", np.zeros((5, 6, 7), np.uint8), straight)
    save_nifti("labels/a.nii", labels.transpose(2, 0, 1), turned)

    (candidate,) = find_shots(tmp_path, plane="axial")

    assert candidate.origin == "a.nii:3"
    assert candidate.read().labels.data[0, 5 - 2, 4 - 1] == 4  # rows run P, columns L; the file runs A and R


def test_find_shots_refuses_an_empty_mask(save_nifti: Save, tmp_path: Path) -> None:
    save_nifti("images/a.nii", np.zeros((5, 6, 7), np.uint8))
    save_nifti("labels/a.nii", np.zeros((5, 6, 7), np.uint8))

    with pytest.raises(InputError, match=r"a\.nii' is empty: no voxel holds a label"):
        find_shots(tmp_path)


def test_find_shots_names_the_damaged_image(one_case: Path) -> None:
    (one_case / "images" / "case_03.nii.gz").write_text("not an image")

    with pytest.raises(InputError, match=r"images/case_03\.nii\.gz' cannot be read as NIfTI"):
        find_shots(one_case)


def test_slice_list_keeps_its_order(one_case: Path) -> None:
    found = find_shots(one_case)
    (one_case / "list.txt").write_text("# best first\ncase_03.nii.gz:2\n\nimages/case_03.nii.gz:7\n")

    chosen = read_slice_list(one_case / "list.txt", found)

    assert [candidate.origin for candidate in chosen] == ["case_03.nii.gz:2", "case_03.nii.gz:7"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no slice"),
        ("other.nii.gz:2", r"'other\.nii\.gz:2' .* names no annotated file"),
        ("case_03.nii.gz:4", "names no single annotated slice"),
        ("case_03.nii.gz", "names no single annotated slice"),
        ("case_03.nii.gz:2\ncase_03.nii.gz:2", "twice"),
    ],
    ids=["empty", "file", "slice", "no_index", "twice"],
)
def test_slice_list_that_does_not_fit_is_refused(one_case: Path, text: str, said: str) -> None:
    (one_case / "list.txt").write_text(text)

    with pytest.raises(InputError, match=said):
        read_slice_list(one_case / "list.txt", find_shots(one_case))


def test_slice_list_that_is_missing_is_named(one_case: Path) -> None:
    with pytest.raises(InputError, match=r"lost\.txt' cannot be read"):
        read_slice_list(one_case / "lost.txt", find_shots(one_case))


def test_slice_list_names_pictures_without_index(save_picture: Save, tmp_path: Path) -> None:
    save_picture("images/a.png", np.zeros((2, 2), np.uint8))
    save_picture("labels/a.png", np.ones((2, 2), np.uint8))
    (tmp_path / "list.txt").write_text("a.png\n")

    assert len(read_slice_list(tmp_path / "list.txt", find_shots(tmp_path))) == 1
