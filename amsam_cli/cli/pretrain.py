"""`amsam pretrain`: the built-in model trained anew, or a SAM 2.1 trained as FSSAM was."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amsam_cli.cli.options import AsJson, Device, Quiet, Seed, Verbose
from amsam_cli.cli.screen import Screen
from amsam_cli.errors import InputError
from amsam_cli.pretrain.parts import Part

if TYPE_CHECKING:
    from amsam_cli.models.sam2 import Sam2
    from amsam_cli.pretrain.training import Course


class Preset(StrEnum):
    """Which training."""

    AMSAM = "amsam"
    FSSAM = "fssam"


def pretrain_command(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run; an unfinished one goes on.")],
    preset: Annotated[
        Preset, typer.Option(help="amsam: invented and real anatomies; fssam: as published, on the classes of --data.")
    ] = Preset.AMSAM,
    model: Annotated[
        str,
        typer.Option(
            "-m", "--model", help="SAM 2.1 of any size, builtin, or NAME=weights; builtin alone starts from nothing."
        ),
    ] = "builtin",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of the whole run.")] = 4000,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Tasks of a step, on frames of 128 px.", show_default="preset's")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of data sets with real anatomy to learn from too.")] = None,
    image_size: Annotated[
        int | None, typer.Option(min=32, help="One frame side in pixels for the whole run.", show_default="preset's")
    ] = None,
    supports: Annotated[
        int | None,
        typer.Option(min=1, max=6, help="Annotated frames each episode shows.", show_default="preset's: 1 to 6, or 1"),
    ] = None,
    without: Annotated[
        list[Part] | None, typer.Option(help="Leave this out, to measure what it brings; preset amsam. Repeatable.")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(min=0, help="At the top of the ramp.", show_default="preset's; half where trained on"),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the weights it began with in the result.", show_default="0.5 or 0"),
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train the built-in model anew, or another SAM 2 for few-shot work."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.pretrain.training import PUBLISHED, WEIGHTS, Run, Schedule, pretrain

    schedule = PUBLISHED if preset is Preset.FSSAM else Schedule()
    schedule = replace(schedule, steps=steps, seed=seed)
    from_nothing = preset is Preset.AMSAM and model == "builtin"
    if preset is Preset.AMSAM and not from_nothing:
        schedule = replace(schedule, learning_rate=schedule.learning_rate / 2, small_until=0.0, keep=0.5)
    sides = None if image_size is None else ((image_size, 1.0),)
    shown = None if supports is None else (supports,)
    asked = {"episodes": episodes, "sides": sides, "supports": shown, "learning_rate": learning_rate, "keep": keep}
    schedule = replace(schedule, **{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]
    schedule = replace(schedule, without=tuple(without or ()))
    if schedule.without and preset is Preset.FSSAM:
        raise InputError("The preset fssam is as published; nothing is left out.", "Leave --without out.")
    course = _course(preset, data)
    run = Run.start(output, schedule, course, _random(device, seed) if from_nothing else _base(model, device))
    with screen.progress() as on_step:
        pretrain(run, on_step=lambda step, figures: on_step("pretrain", step, steps))
    screen.say(f"The weights are in {output / WEIGHTS}")
    screen.result({"output": str(output), "steps": run.step})


def _random(device: str, seed: int) -> Sam2:
    """Return the built-in network with random weights."""
    import torch

    from amsam_cli.models import choose_device
    from amsam_cli.models.builtin import IMAGE_SIZE, build_network
    from amsam_cli.models.sam2 import Sam2

    torch.manual_seed(seed)
    return Sam2(build_network().to(choose_device(device)), "builtin", IMAGE_SIZE)


def _base(spec: str, device: str) -> Sam2:
    """Return the network to train on."""
    from amsam_cli.models import load
    from amsam_cli.models.sam2 import Sam2

    base = load(spec, device)
    if not isinstance(base, Sam2):
        raise InputError(f"{base.name} has no memory to train.", "Take a SAM 2.1, medsam2 or builtin.")
    return base


def _course(preset: Preset, data: Path | None) -> Course:
    """Return what is drawn and asked."""
    from amsam_cli.pretrain.classes import Classes
    from amsam_cli.pretrain.sources import Library
    from amsam_cli.pretrain.training import own_course, published_course

    if data is not None and not data.is_dir():
        raise InputError(f"'{data}' is not a folder.", "Give a folder of data sets, each with images and labels.")
    if preset is Preset.FSSAM:
        if data is None:
            raise InputError("The preset fssam learns from labelled images.", "Give their folder by --data.")
        return published_course(Classes(data), Classes(data, held_out=True))
    return own_course(Library(data), Library(data, held_out=True)) if data else own_course()
