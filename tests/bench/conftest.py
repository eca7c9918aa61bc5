"""A data set in miniature: scans of patients in two frames, a bright square and a dim one in each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from amsam_cli.bench.splits import DataSet, draw_splits

SET = DataSet("toy", {1: "bright", 2: "dim"}, group=r"^(.+)_frame")
DEPTH, SIDE = 5, 16


def save_scan(folder: Path, name: str, seed: int) -> None:
    """Write an image and its labels; file axes (i, j, k), label 2 only on the middle slice, none on the last."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((SIDE, SIDE, DEPTH), np.uint8)
    left, top = rng.integers(1, 4, 2)
    labels[left : left + 5, top : top + 5, : DEPTH - 1] = 1
    labels[left + 6 : left + 10, top + 6 : top + 10, 2] = 2
    image = rng.normal(10, 1, labels.shape) + np.array([0, 60, 30])[labels]
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    for part, data in (("images", image.astype(np.float32)), ("labels", labels)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, affine), folder / part / name)


@pytest.fixture
def save_set(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the set for so many patients and returns the folder it lies in."""

    def save(patients: int = 10, name: str = "toy") -> Path:
        for patient in range(patients):
            for frame in (1, 2):
                save_scan(tmp_path / "data" / name, f"p{patient:02d}_frame{frame}.nii.gz", 2 * patient + frame)
        return tmp_path / "data"

    return save


@pytest.fixture
def data(save_set: Callable[..., Path]) -> Path:
    """The folder of a set of ten patients."""
    return save_set()


@pytest.fixture
def splits(data: Path) -> dict[str, DataSet]:
    """Its draws of seeds 0 and 1."""
    return {dataset.name: dataset for dataset in draw_splits(data, [SET], seeds=(0, 1))}
