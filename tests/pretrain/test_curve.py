from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from amsam_cli.pretrain.curve import write_curve


def test_curve_has_a_panel_for_each_question_asked(tmp_path: Path):
    pytest.importorskip("matplotlib")
    lines = [{"step": 25, "match": 0.2, "loss": 3.0}, {"step": 50, "match": 0.4}, {"step": 50, "val_match": 0.3}]
    widths = []
    for extra in ({}, {"ridge": 0.5}):
        log = tmp_path / "log.jsonl"
        log.write_text("\n".join(json.dumps({**line, **extra}) for line in lines))

        write_curve(log, tmp_path / "curve.png")

        with Image.open(tmp_path / "curve.png") as picture:
            widths.append(picture.width)
    assert widths[1] > 1.8 * widths[0]
