"""The picture of a run: how Dice rose on what is learned from, and beside it on what is not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from amsam_cli.io import atomic_path

ORIGINS = {"": "training", "val": "validation", "val_real": "validation, real anatomy held out"}
QUESTIONS = ("match", "ridge", "track", "prompt")


def write_curve(log: Path, picture: Path) -> None:
    """Draw the Dice of a run's log, a panel for each question, a line for each origin of episodes; needs matplotlib."""
    import matplotlib.figure

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    asked = [name for name in QUESTIONS if any(name in line for line in lines)]
    figure = matplotlib.figure.Figure(figsize=(3.6 * max(1, len(asked)), 3.2), layout="constrained")
    panels = figure.subplots(1, max(1, len(asked)), squeeze=False, sharey=True)[0]
    for panel, question in zip(panels, asked, strict=False):
        _draw(panel, lines, question)
    panels[0].set_ylabel("Dice")
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(fontsize=8)
    with atomic_path(picture) as hidden:
        figure.savefig(hidden, dpi=130, format="png")


def _draw(panel: Any, lines: list[dict[str, float]], question: str) -> None:
    """Draw one question: a thin line for training, marks for the validations."""
    for prefix, label in ORIGINS.items():
        name = f"{prefix}_{question}" if prefix else question
        points = [(line["step"], line[name]) for line in lines if math.isfinite(line.get(name, math.nan))]
        if points:
            style = {"lw": 0.8, "alpha": 0.6} if not prefix else {"marker": "o", "ms": 3}
            panel.plot(*zip(*points, strict=True), label=label, **style)
    panel.set_title(question, fontsize=10)
    panel.set_xlabel("step")
    panel.set_ylim(0, 1)
    panel.grid(alpha=0.3)
