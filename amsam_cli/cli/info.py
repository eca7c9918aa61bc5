"""`amsam info`: what an adapter has learned, as `amsam adapt` prints it too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amsam_cli.cli.options import AsJson, Quiet, Verbose
from amsam_cli.cli.screen import Screen

if TYPE_CHECKING:
    from amsam_cli.adapter import Adapter


def info_command(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder that amsam adapt left.")],
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show what an adapter has learned, from which slices, for which model."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.adapter import Adapter

    print_adapter(Adapter.load(adapter), adapter, screen)


def print_adapter(adapter: Adapter, folder: Path, screen: Screen) -> None:
    """Print what an adapter has learned, from what, and how well it should do."""
    record, forecast = adapter.record, adapter.record.forecast
    screen.say("Learned from")
    for origin in record.shots:
        screen.say(f"  {origin}")
    if forecast:
        scores = [[adapter.labels[value], f"{dice:.3f}"] for value, dice in forecast.items()]
        screen.say()
        screen.table([["Label", "Forecast Dice (leave-one-out)"], *scores])
    trained = ", ".join(f"{name} {count:,}" for name, count in record.trainable.items()) or "none (training-free)"
    seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in record.seconds.items())
    screen.say(f"\nLabels      {', '.join(f'{value}={name}' for value, name in adapter.labels.items())}")
    screen.say(f"Model       {adapter.backbone.name}, {adapter.backbone.image_size} px")
    screen.say(f"Memory      {adapter.memory_backbone.name}, {adapter.memory_backbone.image_size} px")
    screen.say(f"Trained     {trained}")
    screen.say(f"Time        {seconds}")
    screen.say(f"Adapter     {folder}")
    screen.warn(record.warnings)
    screen.result(
        {
            "adapter": str(folder),
            "sha256": adapter.sha256,
            "labels": {str(value): name for value, name in adapter.labels.items()},
            "model": adapter.backbone.name,
            "memory_model": adapter.memory_backbone.name,
            "plane": adapter.recipe.plane,
            "shots": list(record.shots),
            "forecast": {adapter.labels[value]: dice for value, dice in forecast.items()} if forecast else None,
            "trainable": dict(record.trainable),
            "seconds": dict(record.seconds),
            "warnings": list(record.warnings),
        }
    )
