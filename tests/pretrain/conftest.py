from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder with one set of twelve pictures of twelve patients: a square of label 1, a disc of label 2."""
    place = tmp_path / "shapes"
    for name in ("images", "labels"):
        (place / name).mkdir(parents=True)
    y, x = np.mgrid[:64, :64]
    for number in range(12):
        labels = np.zeros((64, 64), np.uint8)
        labels[8 + number : 24 + number, 10:26] = 1
        labels[(y - 45) ** 2 + (x - 20 - 2 * number) ** 2 < 100] = 2
        Image.fromarray(labels).save(place / "labels" / f"p{number:02}.png")
        Image.fromarray((40 + 90 * labels).astype(np.uint8)).save(place / "images" / f"p{number:02}.png")
    return tmp_path
