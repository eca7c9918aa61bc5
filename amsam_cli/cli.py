"""The command line: options in, one call of the library, results out.

The one place that prints, draws progress bars and turns exceptions into exit codes. Everything heavy is imported inside
the commands, so that `--help` and `--version` load no torch. Nobody imports this module.
"""

# ruff: noqa: T201 - this file alone prints

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from amsam_cli.errors import AdapterError, AmsamError, InputError
from amsam_cli.version import __version__
from amsam_cli.volume import Plane

if TYPE_CHECKING:
    from amsam_cli.adapter import Adapter
    from amsam_cli.batch import Outcome
    from amsam_cli.io import Candidate
    from amsam_cli.models.base import OnStep
    from amsam_cli.report import Json, Report, Table

BUG_REPORT = """
This is a bug in amsam, not a mistake of yours. Report it where you got amsam from,
with the lines above, the command line and what amsam --version prints.""".lstrip()
OK, FAILED, UNUSABLE, BUG = 0, 1, 2, 70
DEFAULT_SHOTS = 4
PIPE_WIDTH = 200
"""Columns of a table that goes to a file, where nobody's terminal limits it."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
models_app = typer.Typer(help="List, download or check the models amsam can use.")
bench_app = typer.Typer(help="Measure amsam against other methods on data sets of your own.", no_args_is_help=True)
app.add_typer(models_app, name="models", rich_help_panel="More")
app.add_typer(bench_app, name="bench", rich_help_panel="More")

Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Log what happens to stderr.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no warnings.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Device = Annotated[str, typer.Option("-d", "--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Seed = Annotated[int, typer.Option(help="Same seed, same machine: same bytes.", min=0)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 unusable input or usage, 70 a bug."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = typer.main.get_command(app)
    try:
        command.main(args=arguments, prog_name="amsam", obj=["amsam", *arguments])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else OK
    except AmsamError as err:
        _print_error(err)
        return exit_code_of(err)
    except Exception:  # noqa: BLE001 - the door: a bug gets an exit code of its own
        traceback.print_exc()
        print(BUG_REPORT, file=sys.stderr)
        return BUG
    return OK


def exit_code_of(err: AmsamError) -> int:
    """Return 2 for an input or adapter that cannot be used, 1 for what failed at run time."""
    return UNUSABLE if isinstance(err, InputError | AdapterError) else FAILED


def _print_error(err: AmsamError) -> None:
    """Print a known failure as two lines: what and where, then what to do next."""
    hint = err.hint or "amsam --help lists the commands, amsam COMMAND --help their options."
    console = Console(stderr=True, soft_wrap=True)
    console.print(Text(" ".join(err.message.split()), style="red"))
    console.print(Text(f"Hint: {' '.join(hint.split())}"))


@dataclass(frozen=True)
class Screen:
    """Where results, warnings and progress of one command go."""

    verbose: bool
    quiet: bool
    as_json: bool

    def __post_init__(self) -> None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        logger = logging.getLogger("amsam_cli")
        logger.handlers = [handler]
        logger.setLevel(logging.DEBUG if self.verbose else logging.ERROR if self.quiet else logging.WARNING)

    def result(self, content: Json) -> None:
        """Print the JSON object, if JSON was asked for."""
        if self.as_json:
            from amsam_cli.report import json_text

            print(json_text(content))

    def say(self, text: str = "") -> None:
        """Print a line of results."""
        if not self.as_json:
            print(text)

    def table(self, rows: Table) -> None:
        """Print rows as a table, the header first."""
        if self.as_json:
            return
        header, *body = rows
        table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in header:
            table.add_column(Text(name, style="bold"), overflow="fold")
        for row in body:
            table.add_row(*map(Text, row))
        Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)

    def warn(self, warnings: Sequence[str]) -> None:
        """Print warnings to stderr."""
        if not self.quiet:
            for warning in warnings:
                Console(stderr=True, soft_wrap=True).print(Text(f"Warning: {warning}", style="yellow"))

    @contextmanager
    def progress(self) -> Iterator[OnStep]:
        """Give a function that moves progress bars on stderr; it does nothing where stderr is no terminal."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda stage, done, total: None
            return
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            tasks: dict[str, TaskID] = {}

            def on_step(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total)
                bars.update(tasks[stage], completed=done, total=total)

            yield on_step


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"amsam {__version__}")
        raise typer.Exit


@app.callback()
def amsam(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turn a few annotated slices into an automatic segmenter for medical volumes and pictures.

    amsam adapt learns from the slices, amsam segment labels new scans, amsam evaluate measures how well.
    """


@app.command("adapt")
def adapt_command(
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS", help="Folder of label files; images are looked for in and beside it.")
    ],
    shots: Annotated[
        int | None,
        typer.Option("-k", "--shots", min=1, show_default="4", help="How many annotated slices to learn from."),
    ] = None,
    slices: Annotated[
        Path | None, typer.Option(help="Use exactly the slices of this file, a line such as case_03.nii.gz:41 each.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, same names as the label files.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the adapter.")] = Path("amsam_adapter"),
    model: Annotated[
        str, typer.Option("-m", "--model", help="Model that is tuned and segments slices, or NAME=checkpoint.pt.")
    ] = "builtin",
    memory_model: Annotated[
        str | None,
        typer.Option(help="Model that carries masks through the volume; the model itself if it can, else builtin."),
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="VALUE=NAME", help="Name of a label value.")] = None,
    plane: Annotated[Plane | None, typer.Option(help="Slicing plane; found out from labels and spacing.")] = None,
    group: Annotated[str | None, typer.Option(help="Regular expression for the patient in image file names.")] = None,
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank.")] = 4,
    steps: Annotated[int | None, typer.Option(min=0, help="Optimiser steps; 0 trains nothing.")] = None,
    lr: Annotated[float | None, typer.Option(min=1e-8, help="Learning rate of LoRA.")] = None,
    no_forecast: Annotated[bool, typer.Option("--no-forecast", help="Skip the leave-one-out forecast.")] = False,
    device: Device = "auto",
    seed: Seed = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the data and show the choice, train nothing.")
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Learn from a few annotated slices and leave an adapter folder."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli import io

    candidates = io.find_shots(labels, images, plane=plane, group=group, names=_label_names(label or []))
    chosen = _choose(candidates, shots, slices, screen)
    if dry_run:
        _print_choice(candidates, chosen, screen)
        return
    from amsam_cli import models
    from amsam_cli.adaptation import adapt
    from amsam_cli.adapter import DESCRIPTION, AdapterConfig

    config = AdapterConfig(rank=rank, steps=steps, learning_rate=lr, seed=seed, forecast=not no_forecast)
    with io.atomic_folder(output, marker=DESCRIPTION) as folder, screen.progress() as on_step:
        tuned = models.load(model, device)
        learned = adapt(
            [each.read() for each in chosen], tuned, memory_model=memory_model, config=config, on_step=on_step
        )
        learned.save(folder)
    _print_adapter(learned, output, screen)
    screen.say(f"\nNext: amsam segment SCAN -o mask.nii.gz -a {output}")


def _label_names(entries: Sequence[str]) -> dict[int, str]:
    """Return names from VALUE=NAME entries."""
    names: dict[int, str] = {}
    for entry in entries:
        value, equals, name = entry.partition("=")
        if not (equals and value.strip().isdigit() and int(value) > 0 and name.strip()):
            raise typer.BadParameter(f"'{entry}' is not VALUE=NAME, such as 1=liver.", param_hint="--label")
        if int(value) in names or name.strip() in names.values():
            raise typer.BadParameter(f"'{entry}' repeats a value or a name.", param_hint="--label")
        names[int(value)] = name.strip()
    return names


def _choose(candidates: list[Candidate], shots: int | None, slices: Path | None, screen: Screen) -> list[Candidate]:
    """Return the slices to learn from: those of the list, else the most informative."""
    from amsam_cli.adaptation import choose
    from amsam_cli.io import read_slice_list

    if slices is not None:
        listed = read_slice_list(slices, candidates)
        if shots not in (None, len(listed)):
            raise InputError(
                f"--shots {shots} contradicts '{slices}', which names {len(listed)} slices.", "Leave --shots out."
            )
        return listed
    wanted = shots or DEFAULT_SHOTS
    if len(candidates) < wanted:
        screen.warn([f"{wanted} shots were asked for, but only {len(candidates)} slices are annotated; all are used."])
    return choose(candidates, wanted)


def _print_choice(candidates: list[Candidate], chosen: list[Candidate], screen: Screen) -> None:
    """Print pairs, checks and the chosen slices: what adapt would do."""
    pairs = list(dict.fromkeys(candidate.pair for candidate in candidates))
    names = {value: name for each in chosen for value, name in each.read().labels.names.items()}
    per_pair = {pair: sum(candidate.pair == pair for candidate in candidates) for pair in pairs}
    screen.table(
        [["Image", "Labels", "Patient", "Annotated slices"]]
        + [[pair.image.name, pair.labels.name, pair.patient, str(per_pair[pair])] for pair in pairs]
    )
    screen.say(f"\nPlane {chosen[0].plane}; images and labels lie on one grid in all {len(pairs)} pairs.\n")
    rows = [[c.origin, ", ".join(f"{names[v]} ({n} px)" for v, n in sorted(c.areas.items()))] for c in chosen]
    screen.table([["Chosen slice", "Labels"], *rows])
    screen.result(
        {
            "pairs": [{"image": p.image.name, "labels": p.labels.name, "patient": p.patient} for p in pairs],
            "plane": chosen[0].plane,
            "annotated_slices": len(candidates),
            "labels": {str(value): name for value, name in sorted(names.items())},
            "shots": [candidate.origin for candidate in chosen],
        }
    )


def _print_adapter(adapter: Adapter, folder: Path, screen: Screen) -> None:
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


@app.command("segment")
def segment_command(
    context: typer.Context,
    scans: Annotated[Path, typer.Argument(metavar="INPUT", help="A scan, a DICOM folder, or a folder of scans.")],
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
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Record volume in ml and mean intensity of each label.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do finished cases again.")] = False,
    format: Annotated[  # noqa: A002 - the option's name
        Literal["nifti", "nrrd", "mha", "png"] | None, typer.Option(help="Of masks in an output folder.")
    ] = None,
    num_parts: Annotated[int, typer.Option(min=1, help="Split a batch into so many processes …")] = 1,
    part_id: Annotated[int, typer.Option(min=0, help="… of which this is number, from 0.")] = 0,
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

    found = find_cases(scans)
    is_batch = found[0].path != scans
    destination = batch.Destination.parse(output, format=format, is_batch=is_batch)
    cases = batch.part_of(found, count=num_parts, index=part_id)
    engine = batch.Engine.load(adapter, device=device, model=model, memory_model=memory_model)
    options = batch.Options(seed, preview, statistics, overwrite, argv=tuple(context.obj))
    with screen.progress() as on_step:
        outcomes = list(batch.run(cases, engine, destination, options, isolate=is_batch, on_step=on_step))
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
            _print_error(outcome.error)
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


@app.command("evaluate")
def evaluate_command(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="A mask, or a folder of masks.")],
    references: Annotated[
        Path, typer.Argument(metavar="REFERENCES", help="Its reference, or a folder of references with the same names.")
    ],
    tolerance_mm: Annotated[float, typer.Option(min=0, help="How far off a surface may be for NSD.")] = 1.0,
    csv: Annotated[Path | None, typer.Option(help="Write every score as a line of this CSV file.")] = None,
    json_file: Annotated[Path | None, typer.Option(help="Write scores and summary to this JSON file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained HTML page.")] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="Other predictions of the same cases, for a paired test.")
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure masks against references: Dice, IoU, HD95, ASSD, NSD and volume error of every label."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli import evaluation
    from amsam_cli.report import write_csv, write_html, write_json

    with screen.progress() as on_step:
        report = evaluation.evaluate(
            predictions, references, tolerance_mm=tolerance_mm, on_case=lambda *n: on_step("evaluate", *n)
        )
        other = compare and evaluation.evaluate(
            compare, references, tolerance_mm=tolerance_mm, on_case=lambda *n: on_step("compare", *n)
        )
    comparison = evaluation.compare(report, other) if other else None
    content = {**report.to_json(), **({"comparison": comparison.to_json()} if comparison else {})}
    if csv:
        write_csv(report, csv)
    if json_file:
        write_json(content, json_file)
    if html:
        write_html(report, html, comparison=comparison)
    screen.table(report.summary_table())
    if comparison:
        screen.say("\nFirst: the predictions; second: those of --compare.")
        screen.table(comparison.table())
    screen.warn([*_warnings_of(report), *(comparison.warnings if comparison else ())])
    screen.result(content)


def _warnings_of(report: Report) -> list[str]:
    warnings = report.meta.get("warnings", ())
    return [str(warning) for warning in warnings] if isinstance(warnings, list | tuple) else []


@app.command("demo")
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


@models_app.callback(invoke_without_command=True)
def models_command(context: typer.Context) -> None:
    """List, download or check the models amsam can use."""
    if context.invoked_subcommand is None:
        list_command()


@models_app.command("list")
def list_command(verbose: Verbose = False, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """List the models, and which of them are on this machine."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.weights import CHECKPOINTS, location

    rows = [["Model", "Here", "MiB", "Frame px", "Licence", "Note"]]
    for entry in CHECKPOINTS.values():
        here = "yes" if location(entry).is_file() else "no"
        rows.append([entry.name, here, str(entry.size_mib), str(entry.image_size), entry.licence, entry.note])
    screen.table(rows)
    keys = ("name", "here", "size_mib", "image_size", "licence", "note")
    screen.result({"models": [dict(zip(keys, row, strict=True)) for row in rows[1:]]})


@models_app.command("pull")
def pull_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that amsam models list shows.")],
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Download the weights of a model and check them."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.weights import pull

    with screen.progress() as on_step:
        path = pull(name, lambda done, total: on_step("MiB", done >> 20, (total or done) >> 20))
    screen.say(f"{name} is at {path}")
    screen.result({"name": name, "path": str(path)})


@models_app.command("verify")
def verify_command(verbose: Verbose = False, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Check the weights on this machine against their published, or first seen, hashes."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.weights import verify

    found = verify()
    rows = [[status.checkpoint.name, status.state, str(status.path), status.sha256 or ""] for status in found]
    screen.table([["Model", "State", "File", "SHA-256"], *rows])
    keys = ("name", "state", "path", "sha256")
    screen.result({"models": [dict(zip(keys, row, strict=True)) for row in rows]})
    if any(status.state == "damaged" for status in found):
        raise typer.Exit(FAILED)


@app.command("info", rich_help_panel="More")
def info_command(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder that amsam adapt left.")],
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show what an adapter has learned, from which slices, for which model."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.adapter import Adapter

    _print_adapter(Adapter.load(adapter), adapter, screen)


@app.command("pretrain", rich_help_panel="More")
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
