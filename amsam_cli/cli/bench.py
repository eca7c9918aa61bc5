"""`amsam bench`: methods compared on data sets of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amsam_cli.cli.options import AsJson, Device, Quiet, Verbose
from amsam_cli.cli.screen import Screen

bench_app = typer.Typer(help="Measure amsam against other methods on data sets of your own.", no_args_is_help=True)


@bench_app.callback()
def bench_command() -> None:
    """Measure amsam against other methods on data sets of your own."""


@bench_app.command("fewshot")
def fewshot_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of data sets: SET/images and SET/labels.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of results; what is there is not run again.")],
    sets: Annotated[list[str] | None, typer.Option("--set", help="Only this set; may be repeated.")] = None,
    shots: Annotated[
        list[int] | None, typer.Option("-k", "--shots", min=1, help="Repeatable; 1 and 4 if left out.")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", min=0, help="Draw; repeatable; all if left out.")] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="Repeatable; amsam and unet if left out.")
    ] = None,
    device: Device = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Learn from a few slices, segment other patients, and compare methods on the same draws."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.bench.fewshot import Selection, run_fewshot, table
    from amsam_cli.bench.splits import SEEDS

    selection = Selection(sets or (), shots or (1, 4), seeds or SEEDS, methods or ("amsam", "unet"), device)
    with screen.progress() as on_step:
        results = run_fewshot(data, output, selection, on_step=on_step)
    screen.say(table(results))
    screen.result({"results": [(output / result.place).as_posix() for result in results], "table": table(results)})
