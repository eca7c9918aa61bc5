from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from amsam_cli.errors import InputError
from amsam_cli.pretrain.sources import CHANNELS, FIELD, LABEL_MAPS, NEVER_TARGETS, SCANS, Library
from amsam_cli.pretrain.synthesis import Plan, render

DEV_EVAL = {
    "acdc_heart_mr",
    "msd_hippocampus_mr",
    "lidc_nodules_ct",
    "cxr_lungs_xray",
    "brats2015_glioma_mr",
    "ph2_skinlesion",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with one label map (labels 2, 3, 17, 53) and one scan (labels 1, 51)."""
    _write(tmp_path / "labelmaps_anatomy" / "labels" / "brain_synthseg_01.nii.gz", [0, 2, 3, 17, 53])
    _write(tmp_path / "totalseg_samples" / "labels" / "ct_body_3mm.nii.gz", [0, 1, 51])
    _write(tmp_path / "totalseg_samples" / "images" / "ct_body_3mm.nii.gz", [-1000, 0, 100])
    return tmp_path


def _write(path: Path, values: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.repeat(np.array(values, np.int16), 8)[:, None, None] * np.ones((1, 24, 24), np.int16)
    nib.save(nib.Nifti1Image(blocks, np.eye(4)), path)


def test_library_never_reads_a_set_kept_for_evaluation():
    assert not DEV_EVAL & (set(LABEL_MAPS) | set(SCANS))


def test_library_never_makes_evaluation_anatomy_a_target(data: Path):
    library = Library(data)

    assert set(library.maps[0][0].targets) == {2, 3}  # not the hippocampi 17 and 53
    assert set(library.scans[0][0].targets) == {1}  # not the heart 51


def test_evaluation_anatomy_is_no_tissue_to_learn_either(data: Path):
    anatomies = Library(data).draw(6, torch.Generator().manual_seed(0), scans=True)

    episodes = render(anatomies, Plan(6, 2, 2, 64), torch.Generator().manual_seed(1))

    # Label 1 of the scan is the one that is learned; what is left, its heart among it, counts as "all else".
    assert anatomies.allowed is not None
    for row in range(6):
        allowed = {0, *anatomies.allowed[row].nonzero()[:, 0].tolist()}
        assert set(episodes.tissues[row].unique().tolist()) <= allowed


def test_one_anatomy_in_five_is_held_out(tmp_path: Path):
    for number in range(6):
        path = tmp_path / "labelmaps_anatomy" / "labels" / f"brain_synthseg_{number:02}.nii.gz"
        _write(path, [0, 2 + number])

    learned, kept = Library(tmp_path), Library(tmp_path, held_out=True)

    names = [{next(iter(specimen.targets)) for specimen in library.maps[0]} for library in (learned, kept)]
    assert names == [{2, 3, 4, 5, 7}, {6}]


def test_exclusions_name_hippocampus_heart_and_lungs():
    assert {17, 53} <= NEVER_TARGETS["brain_synthseg"]
    assert {51, 53, 61, 10, 11, 12, 13, 14} <= NEVER_TARGETS["ct_body"]
    assert {51, 53, 61, 10, 11, 12, 13, 14} <= NEVER_TARGETS["torso_totalseg"]


def test_drawn_pieces_hold_an_allowed_target(data: Path):
    anatomies = Library(data).draw(5, torch.Generator().manual_seed(0), scans=False)

    assert anatomies.fields.shape == (5, CHANNELS, *FIELD)
    assert anatomies.image is None
    assert anatomies.allowed is not None
    label = anatomies.fields.argmax(dim=1)
    for row in range(5):
        targets = anatomies.allowed[row].nonzero()[:, 0].tolist()
        assert any((label[row] == target).any() for target in targets)
        assert 0 not in targets


def test_drawn_scans_bring_their_own_look(data: Path):
    anatomies = Library(data).draw(2, torch.Generator().manual_seed(0), scans=True)

    assert anatomies.image is not None
    assert anatomies.image.shape == (2, 1, *FIELD)
    assert anatomies.image.min() >= 0
    assert anatomies.image.max() <= 1


def test_library_refuses_a_folder_without_any_known_set(tmp_path: Path):
    with pytest.raises(InputError, match="No data set to learn from") as caught:
        Library(tmp_path)

    assert caught.value.hint
