"""What every test may use: a clean environment, small scans on disk, the toy in the place of every model."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from amsam_cli import cli
from amsam_cli.models.precision import chosen_precision
from tests.scans import ball_scan
from tests.toy import ToyModel

AFFINE = np.array([[0, 0, -1, 40], [0, -1, 0, 30], [3, 0, 0, -20], [0, 0, 0, 1.0]])
"""Voxel (d, h, w) -> RAS+ mm of `tests.scans.ball_scan`; files keep its axes as (w, h, d)."""


def pytest_configure() -> None:
    """Let workers of pytest-xdist, and the commands they start, share the processor instead of slowing each other."""
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        threads = max(1, (os.cpu_count() or 1) // workers)
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep tests off the network, the home directory and the user's own settings."""
    monkeypatch.setenv("AMSAM_OFFLINE", "1")
    monkeypatch.setenv("AMSAM_HOME", str(tmp_path / "amsam_home"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("AMSAM_ADAPTER", raising=False)


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Work in full precision on every machine: what must be equal is not equal in bfloat16."""
    with chosen_precision(is_mixed=False):
        yield


@pytest.fixture(autouse=True)
def clean_logging() -> Iterator[None]:
    """Put the package's logger back as it was: a command sets it up for its whole process."""
    logger = logging.getLogger("amsam_cli")
    handlers, level = logger.handlers, logger.level
    yield
    logger.handlers = handlers
    logger.setLevel(level)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the toy whenever a model is asked for by name."""

    def load(spec: str, device: str = "cpu", *, image_size: int | None = None) -> ToyModel:
        return ToyModel(image_size=image_size or 64)

    monkeypatch.setattr("amsam_cli.models.load", load)


@dataclass(frozen=True)
class Ran:
    """What a command did: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def amsam(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ran]:
    """Return a function that runs the command line in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return run


def save_nifti(path: Path, data: NDArray[np.generic], affine: NDArray[np.float64] | None = None) -> Path:
    """Write (D, H, W) as NIfTI with axes (W, H, D)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = AFFINE if affine is None else affine
    nib.save(nib.Nifti1Image(data.T, stored[:, [2, 1, 0, 3]]), path)
    return path


def save_balls(folder: Path, seed: int, *, annotated: slice = slice(None)) -> None:
    """Write a scan of two balls to images/ and its labels, empty but on the annotated slices, to labels/."""
    volume, labels = ball_scan(seed)
    sparse = np.zeros_like(labels.data)
    sparse[annotated] = labels.data[annotated]
    save_nifti(folder / "images" / f"case_{seed}.nii.gz", volume.data[0].astype(np.int16))
    save_nifti(folder / "labels" / f"case_{seed}.nii.gz", sparse.astype(np.uint8))


def save_picture(folder: Path, name: str, *, at: int = 16) -> None:
    """Write a picture (48 x 64) of a bright square and its mask (0 and 255) of the same name."""
    pixels = np.full((48, 64), 40, dtype=np.uint8)
    mask = np.zeros_like(pixels)
    pixels[at : at + 16, at : at + 16], mask[at : at + 16, at : at + 16] = 200, 255
    for kind, content in (("images", pixels), ("labels", mask)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(folder / kind / f"{name}.png")


@pytest.fixture
def shots_folder(tmp_path: Path) -> Path:
    """A folder with images/ and labels/ of two patients, two annotated slices each."""
    for seed in (0, 1):
        save_balls(tmp_path / "shots", seed, annotated=slice(4, 6))
    return tmp_path / "shots"


@pytest.fixture
def scans_folder(tmp_path: Path) -> Path:
    """A folder with images/ and whole labels/ of two other patients."""
    for seed in (7, 8):
        save_balls(tmp_path / "scans", seed)
    return tmp_path / "scans"


@pytest.fixture
def adapter_folder(toy: None, shots_folder: Path, tmp_path: Path) -> Path:
    """The folder of a training-free adapter of the toy."""
    folder = tmp_path / "amsam_adapter"
    arguments = ["adapt", str(shots_folder), "--steps", "0", "--no-forecast", "-q", "-o", str(folder)]
    assert cli.main(arguments) == cli.OK
    return folder
