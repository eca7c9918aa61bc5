"""`amsam demo`: the whole way on invented data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amsam_cli.cli.options import AsJson, Device, Quiet, Verbose
from amsam_cli.cli.screen import Screen


def demo_command(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything the demo makes.")] = Path(
        "amsam_demo"
    ),
    device: Device = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Adapt, segment and evaluate on invented sample data, offline, with the built-in model."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.bench.demo import run_demo

    with screen.progress() as on_step:
        demo = run_demo(output, device=device, on_step=on_step)
    screen.say(f"Learned from {', '.join(demo.adapter.record.shots)}; segmented an invented patient not seen before.\n")
    screen.table(demo.report.summary_table())
    screen.warn([*demo.adapter.record.warnings, *demo.record.warnings])
    screen.say(f"\nLook at {output / 'mask.nii.gz.preview.png'}; everything else is beside it.")
    screen.result({"output": str(output), **demo.report.to_json()})
