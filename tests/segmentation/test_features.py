from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from amsam_cli.bench import speed
from amsam_cli.models.base import Embedding, silent
from amsam_cli.preprocess import Frames, Recipe
from amsam_cli.segmentation.features import BATCH, Features
from amsam_cli.volume import Geometry, Volume
from tests.scans import ball_scan
from tests.toy import ToyModel

GREY = Recipe("axial", None, (0.0, 100.0), 64, 1)


def frames(depth: int = 9) -> Frames:
    return Frames(ball_scan(depth=depth)[0], GREY)


def test_rows_are_what_the_model_made_of_each_slice():
    model = ToyModel()

    found = Features.encode(model, frames(), limit_gib=None, on_step=silent).rows([4, 0, 4])

    expected = model.encode(frames().pixels(0, 9)).rows([4, 0, 4])
    torch.testing.assert_close(found.features, expected.features, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.detail[0], expected.detail[0], atol=1e-3, rtol=1e-3)
    assert found.features.dtype == torch.float32


@pytest.mark.parametrize("limit", [0.0, 100.0], ids=["on disk", "in memory"])
def test_features_past_the_limit_lie_on_disk(limit: float):
    features = Features.encode(ToyModel(), frames(), limit_gib=limit, on_step=silent)

    assert features.is_on_disk == (limit == 0)


def test_features_on_disk_are_those_in_memory():
    stored, held = (
        Features.encode(ToyModel(), frames(), limit_gib=limit, on_step=silent).rows(range(9)) for limit in (0.0, 100.0)
    )

    assert torch.equal(stored.features, held.features)
    assert torch.equal(stored.detail[0], held.detail[0])


def growth_of_many_slices(limit: float) -> float:
    """Return by how much encoding and reading 2500 slices raises this process's peak, in sizes of one level."""
    data = np.zeros((1, 2500, 16, 16), dtype=np.float32)
    scan = Volume(data, Geometry(data.shape[1:], np.eye(4)), (0.0, 1.0))
    side = 192
    size_mib = 2500 * 8 * (side // 4) ** 2 * 2 / 2**20  # one level of eight channels, float16
    model, sliced = ToyModel(image_size=side), Frames(scan, replace(GREY, image_size=side))
    # What any run takes for itself, some thirty MiB, is small beside so many slices and mostly taken before.
    warm = Frames(scan.part(0, 200), replace(GREY, image_size=side))
    Features.encode(model, warm, limit_gib=0.0, on_step=silent).rows(range(8))

    speed._forget_peak()
    before = speed._peak_since()
    features = Features.encode(model, sliced, limit_gib=limit, on_step=silent)
    for start in range(0, 2500, 100):
        features.rows(range(start, start + 8))
    return (speed._peak_since() - before) / size_mib


@pytest.mark.skipif(not speed._RESET.exists(), reason="the system does not tell")
@pytest.mark.parametrize(("limit", "grows"), [(0.0, False), (100.0, True)], ids=["on disk", "in memory"])
def test_features_of_many_slices_fill_memory_only_where_they_may(limit: float, grows: bool):
    # In a process of its own: one that has run other tests has free memory to take before it grows.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        growth = fresh.submit(growth_of_many_slices, limit).result()

    assert (growth > 0.8) == grows


def test_features_on_disk_are_removed_with_their_object(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    features = Features.encode(ToyModel(), frames(), limit_gib=0.0, on_step=silent)
    assert os.listdir(tmp_path)  # noqa: PTH208 - a plain look

    features.close()

    assert not os.listdir(tmp_path)  # noqa: PTH208


class Crowded(ToyModel):
    """A model for whose device more than `fits` frames at once are too many."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.fits = fits
        self.sizes: list[int] = []

    def encode(self, pixels: torch.Tensor) -> Embedding:
        if len(pixels) > self.fits:
            raise torch.OutOfMemoryError
        self.sizes.append(len(pixels))
        return super().encode(pixels)


def test_encode_takes_smaller_batches_where_memory_runs_out():
    crowded = Crowded(fits=3)

    features = Features.encode(crowded, frames(20), limit_gib=None, on_step=silent)

    assert max(crowded.sizes) == BATCH // 8
    assert sum(crowded.sizes) == 20
    expected = Features.encode(ToyModel(), frames(20), limit_gib=None, on_step=silent).rows(range(20))
    torch.testing.assert_close(features.rows(range(20)).features, expected.features, atol=1e-3, rtol=1e-3)


def test_encode_gives_up_where_not_one_frame_fits():
    with pytest.raises(torch.OutOfMemoryError):
        Features.encode(Crowded(fits=0), frames(2), limit_gib=None, on_step=silent)
