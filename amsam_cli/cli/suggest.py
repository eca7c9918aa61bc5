"""`amsam suggest`: which slices to annotate next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amsam_cli.cli.options import AsJson, Device, Quiet, Verbose
from amsam_cli.cli.screen import Screen


def suggest_command(
    scans: Annotated[
        Path, typer.Argument(metavar="SCAN", help="A scan, a DICOM folder or zip, or a folder of scans or pictures.")
    ],
    adapter: Annotated[
        Path, typer.Option("-a", "--adapter", envvar="AMSAM_ADAPTER", help="Folder that amsam adapt left.")
    ] = Path("amsam_adapter"),
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many slices to name.")] = 4,
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="NAME=checkpoint.pt, if the adapter's model is a file at hand.")
    ] = None,
    memory_model: Annotated[str | None, typer.Option(help="The same for the memory model.")] = None,
    device: Device = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Name the slices an adapter would learn most from, as lines that amsam adapt --slices takes."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli import io
    from amsam_cli.batch import Engine
    from amsam_cli.suggest import suggest_slices

    engine = Engine.load(adapter, device=device, model=model, memory_model=memory_model)
    names, plane = engine.adapter.labels, engine.adapter.recipe.plane
    rows: list[tuple[float, str, str]] = []
    for case in io.find_cases(scans):
        volume = io.read_volume(case.path, plane, series=case.series)
        with screen.progress() as on_step:
            found = suggest_slices(
                volume, engine.adapter, engine.model, memory_model=engine.memory_model, count=count, on_step=on_step
            )
        rows += [(each.doubt, each.origin, names[each.label]) for each in found]
    rows = sorted(rows, key=lambda row: (-row[0], row[1]))[:count]
    screen.table(
        [["Slice", "Least sure of", "Doubt"], *([origin, name, f"{doubt:.2f}"] for doubt, origin, name in rows)]
    )
    screen.result({"suggestions": [{"slice": origin, "label": name, "doubt": doubt} for doubt, origin, name in rows]})
