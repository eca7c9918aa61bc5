"""Adapt, segment and evaluate with each family of models, and on real scans: the whole way through files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import sam_model_registry

from amsam_cli import models
from amsam_cli.adaptation import adapt, choose
from amsam_cli.adapter import Adapter, AdapterConfig
from amsam_cli.evaluation import evaluate
from amsam_cli.io import find_shots, read_volume, write_labels
from amsam_cli.models import sam2
from amsam_cli.segmentation import segment
from tests.scans import ball_scan, ball_shot

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


def official_checkpoint(name: str, folder: Path) -> Path:
    """Write a file as the model's authors publish it, with random weights from their own builder."""
    path = folder / f"{name}.pt"
    torch.manual_seed(0)
    if name == "sam-vit-b":
        torch.save(sam_model_registry["vit_b"]().state_dict(), path)
    else:
        torch.save({"model": sam2.build_network(name).state_dict()}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["builtin", "sam-vit-b", "sam2.1-tiny"])
def test_every_family_of_models_adapts_and_segments(name: str, tmp_path: Path):
    spec = name if name == "builtin" else f"{name}={official_checkpoint(name, tmp_path)}"
    model = models.load(spec, image_size=256)
    volume, _ = ball_scan(5, depth=3)
    folder = tmp_path / "adapter"
    folder.mkdir()

    adapt([ball_shot(0), ball_shot(1)], model, config=AdapterConfig(steps=2, forecast=False)).save(folder)
    adapter = Adapter.load(folder)
    result = segment(volume, adapter, model)

    assert adapter.backbone.name == name
    assert adapter.memory_backbone.name == ("builtin" if name == "sam-vit-b" else name)
    assert not adapter.changes.is_empty
    assert result.labels.data.shape == volume.geometry.shape
    assert set(np.unique(result.labels.data)) <= {0, 1, 2}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "acdc_heart_mr").is_dir(), reason="the real scans are not here")
def test_four_shots_of_two_hearts_segment_a_third(tmp_path: Path):
    data = REAL / "acdc_heart_mr"
    found = find_shots(data / "labels", data / "images", group=r"(patient\d+)")
    patients = sorted({candidate.pair.patient for candidate in found})
    shots = [each.read() for each in choose([c for c in found if c.pair.patient in patients[:2]], 4)]
    query = next(c.pair for c in found if c.pair.patient == patients[2])

    adapter = adapt(shots, config=AdapterConfig(forecast=False))
    volume = read_volume(query.image, adapter.recipe.plane)
    result = segment(volume, adapter)
    assert volume.source is not None
    write_labels(result.labels, tmp_path / query.image.name, like=volume.source)
    report = evaluate(tmp_path / query.image.name, query.labels)

    by_label = {row.label: row.value for row in report.rows if row.metric == "dice"}
    assert len(by_label) == 3
    assert np.mean([value for value in by_label.values() if value is not None]) > 0.4
