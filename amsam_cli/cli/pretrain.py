"""`amsam pretrain`: the built-in model, trained anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amsam_cli.cli.options import AsJson, Device, Quiet, Seed, Verbose
from amsam_cli.cli.screen import Screen
from amsam_cli.errors import InputError


def pretrain_command(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run; an unfinished one goes on.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of the whole run.")] = 4000,
    weights: Annotated[Path | None, typer.Option(help="Start from these weights, a .safetensors file.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of data sets with real anatomy to learn from too.")] = None,
    device: Device = "auto",
    seed: Seed = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train the built-in model anew, on invented anatomy."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.models import choose_device
    from amsam_cli.pretrain.sources import Library
    from amsam_cli.pretrain.training import Run, Schedule, pretrain

    if weights is not None and not weights.is_file():
        raise InputError(f"Weights '{weights}' are not a file.", "Give a weights.safetensors of another run.")
    library = Library(data) if data else None
    run = Run.start(output, Schedule(steps=steps, seed=seed), device=str(choose_device(device)), weights=weights)
    with screen.progress() as on_step:
        pretrain(run, library=library, on_step=lambda step, figures: on_step("pretrain", step, steps))
    screen.say(f"The weights are in {output / 'weights.safetensors'}")
    screen.result({"output": str(output), "steps": run.step})
