"""`amsam segment`: scans in, masks and their records out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from amsam_cli.cli.failures import FAILED, print_error
from amsam_cli.cli.options import AsJson, Device, Quiet, Seed, Verbose
from amsam_cli.cli.screen import Screen

if TYPE_CHECKING:
    from amsam_cli.batch import Outcome
    from amsam_cli.report import Json


def segment_command(
    context: typer.Context,
    scans: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A scan, a DICOM folder or zip, or a folder of scans.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Mask file; its suffix decides the format. No suffix: a folder.")
    ],
    adapter: Annotated[
        Path, typer.Option("-a", "--adapter", envvar="AMSAM_ADAPTER", help="Folder that amsam adapt left.")
    ] = Path("amsam_adapter"),
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="NAME=checkpoint.pt, if the adapter's model is a file at hand.")
    ] = None,
    memory_model: Annotated[str | None, typer.Option(help="The same for the memory model.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Draw a PNG of each mask beside it.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write an HTML page about each mask beside it: picture, what to review.")
    ] = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Record volume in ml and mean intensity of each label.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do finished cases again.")] = False,
    format: Annotated[  # noqa: A002 - the option's name
        Literal["nifti", "nrrd", "mha", "seg", "png"] | None, typer.Option(help="Of masks in an output folder.")
    ] = None,
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Write the probability of each label at each voxel too.")
    ] = False,
    series: Annotated[
        str | None, typer.Option(help="Which DICOM series of a mixed folder: its number, or the end of its UID.")
    ] = None,
    codes: Annotated[
        Path | None, typer.Option(help="A labels.json with the SNOMED code of each label, for DICOM SEG.")
    ] = None,
    mode: Annotated[
        Literal["prior", "slice", "fssam", "track", "full"],
        typer.Option(help="Prior alone, slices alone, shots in memory, plain propagation, or all that helps."),
    ] = "full",
    max_memory: Annotated[
        float | None,
        typer.Option(min=0, help="GiB past which features go to disk.", show_default="auto"),
    ] = None,
    num_parts: Annotated[int, typer.Option(min=1, help="Split a batch into so many processes …")] = 1,
    part_id: Annotated[int, typer.Option(min=0, help="… of which this is number, from 0.")] = 0,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Spread a batch over a Ray cluster; local starts one here.")
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Segment a scan, or a folder of scans, with an adapter."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli import batch
    from amsam_cli.io import find_cases
    from amsam_cli.io.dicom.codes import read_codes

    found = find_cases(scans, series=series)
    is_batch = found[0].path != scans
    destination = batch.Destination.parse(output, format=format, is_batch=is_batch)
    cases = batch.part_of(found, count=num_parts, index=part_id)
    options = batch.Options(
        seed=seed,
        preview=preview,
        report=report,
        statistics=statistics,
        overwrite=overwrite,
        argv=tuple(context.obj),
        probabilities=save_probabilities,
        codes=read_codes(codes) if codes else {},
        mode=mode,
        max_memory_gib=max_memory,
    )
    with screen.progress() as on_step:
        if ray:
            from amsam_cli import cluster

            where = cluster.EngineAt(adapter, device, model, memory_model)
            outcomes = list(cluster.run_on_ray(cases, where, destination, options, address=ray, on_step=on_step))
        else:
            engine = batch.Engine.load(adapter, device=device, model=model, memory_model=memory_model)
            outcomes = list(batch.run(cases, engine, destination, options, isolate=is_batch, on_step=on_step))
    if not is_batch and outcomes[0].error:
        raise outcomes[0].error
    _print_outcomes(outcomes, screen)
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(FAILED)


def _print_outcomes(outcomes: Sequence[Outcome], screen: Screen) -> None:
    """Print a line for each case; failures and warnings go to stderr as well."""
    rows = [["Case", "Status", "Mask", "Seconds"]]
    for outcome in outcomes:
        seconds = f"{sum(outcome.record.seconds.values()):.1f}" if outcome.record else ""
        rows.append([outcome.case.name, outcome.status, str(outcome.mask or ""), seconds])
        if outcome.record:
            screen.warn([f"{outcome.case.name}: {warning}" for warning in outcome.record.warnings])
        if outcome.error:
            print_error(outcome.error)
    screen.table(rows)
    screen.result({"cases": [_outcome_json(outcome) for outcome in outcomes]})


def _outcome_json(outcome: Outcome) -> Json:
    error = outcome.error
    return {
        "case": outcome.case.name,
        "status": outcome.status,
        "mask": str(outcome.mask) if outcome.mask else None,
        "record": outcome.record.to_json() if outcome.record else None,
        "error": error.message if error else None,
        "hint": error.hint if error else None,
    }
