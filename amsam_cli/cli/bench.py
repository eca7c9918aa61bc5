"""`amsam bench`: methods compared on data sets of one's own, by the papers' protocols, and by the clock."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amsam_cli.cli.options import AsJson, Device, Quiet, Seed, Verbose
from amsam_cli.cli.screen import Screen

if TYPE_CHECKING:
    from amsam_cli.bench.record import Result
    from amsam_cli.bench.voc import EpisodeSource
    from amsam_cli.report import Json

bench_app = typer.Typer(help="Measure amsam against other methods on data sets of your own.", no_args_is_help=True)

Output = Annotated[Path, typer.Option("-o", "--output", help="Folder of results; what is there is not run again.")]
Methods = Annotated[
    list[str] | None, typer.Option("--method", help="Repeatable; a name that amsam bench methods lists.")
]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Only this set; may be repeated.")]
Seeds = Annotated[list[int] | None, typer.Option("--seed", min=0, help="Draw; repeatable; all if left out.")]
Folds = Annotated[list[int] | None, typer.Option("--fold", min=0, max=3, help="Repeatable; all four if left out.")]
Shots = Annotated[list[int] | None, typer.Option("-k", "--shots", min=1, help="Repeatable; 1 and 5 if left out.")]
Episodes = Annotated[int, typer.Option(min=1, help="Episodes of a fold.")]
Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder of results of amsam bench fewshot.")]
Plot = Annotated[Path | None, typer.Option(help="Draw Dice over shots to this PNG file.")]
ShownShots = Annotated[list[int] | None, typer.Option("-k", "--shots", min=1, help="Repeatable; all if left out.")]
Model = Annotated[str | None, typer.Option("-m", "--model", help="Model of amsam's own methods; builtin if left out.")]


@bench_app.callback()
def bench_command() -> None:
    """Measure amsam against other methods on data sets of your own."""


@bench_app.command("methods")
def methods_command(verbose: Verbose = False, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """List the methods that can be compared."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.bench.contenders import AVAILABLE_METHODS

    screen.table([["Method", "What it is"], *([name, text] for name, text in AVAILABLE_METHODS.items())])
    screen.result({"methods": dict(AVAILABLE_METHODS)})


@bench_app.command("fewshot")
def fewshot_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of data sets: SET/images and SET/labels.")],
    output: Output,
    sets: Sets = None,
    shots: Annotated[
        list[int] | None, typer.Option("-k", "--shots", min=1, help="Repeatable; 1 and 4 if left out.")
    ] = None,
    seeds: Seeds = None,
    methods: Methods = None,
    model: Model = None,
    plot: Plot = None,
    device: Device = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Learn from a few slices, segment other patients, and compare methods on the same draws."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.bench.fewshot import Selection, run_fewshot
    from amsam_cli.bench.splits import SEEDS

    selection = Selection(sets or (), shots or (1, 4), seeds or SEEDS, methods or ("amsam", "unet"), device, model)
    with screen.progress() as on_step:
        results = run_fewshot(data, output, selection, on_step=on_step)
    _print_results(results, output, plot, screen)


@bench_app.command("folder")
def folder_command(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder with images and masks (or labels), or a folder of such.")
    ],
    output: Output,
    shots: Annotated[
        list[int] | None, typer.Option("-k", "--shots", min=1, help="Repeatable; 4, 8 and 16 if left out.")
    ] = None,
    seeds: Seeds = None,
    methods: Methods = None,
    model: Model = None,
    queries: Annotated[int | None, typer.Option(min=1, help="Pictures to segment; all others if left out.")] = None,
    plot: Plot = None,
    device: Device = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare methods on pictures with one object each, in the layout of the AM-SAM paper's sets."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.bench import folders
    from amsam_cli.bench.fewshot import Selection, run_fewshot
    from amsam_cli.bench.splits import SEEDS

    counts, draws = shots or folders.SHOTS, seeds or SEEDS
    results: list[Result] = []
    for place in folders.find_picture_sets(data):
        drawn = folders.draw_pictures(place, shots=counts, seeds=draws, queries=queries)
        selection = Selection([drawn.name], counts, draws, methods or ("amsam", "unet"), device, model)
        with screen.progress() as on_step:
            splits = {drawn.name: drawn}
            results += run_fewshot(place.resolve().parent, output, selection, splits=splits, on_step=on_step)
    _print_results(results, output, plot, screen)


def _print_results(results: Sequence[Result], output: Path, plot: Path | None, screen: Screen) -> None:
    from amsam_cli.bench.page import write_plot
    from amsam_cli.bench.ranking import table

    if plot:
        write_plot(results, plot)
    _show(table(results), screen, [(output / result.place).as_posix() for result in results])


def _show(table: str, screen: Screen, results: list[Json] | None = None) -> None:
    """Print a table, with its results where it has some."""
    screen.say(table)
    screen.result({"table": table} if results is None else {"results": results, "table": table})


@bench_app.command("pascal")
def pascal_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="VOC2012, or the folder above it.")],
    output: Output,
    folds: Folds = None,
    shots: Shots = None,
    episodes: Episodes = 1000,
    methods: Methods = None,
    model: Model = None,
    seed: Seed = 0,
    device: Device = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run the episodes of PASCAL-5i: mIoU and FB-IoU of each fold."""
    from amsam_cli.bench.voc import Pascal

    screen = Screen(verbose, quiet, as_json)
    _run_protocol(Pascal(data), output, (folds, shots, episodes, seed), (methods, model, device), screen)


@bench_app.command("coco")
def coco_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder with val2014 and annotations.")],
    output: Output,
    folds: Folds = None,
    shots: Shots = None,
    episodes: Episodes = 1000,
    methods: Methods = None,
    model: Model = None,
    seed: Seed = 0,
    device: Device = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run the episodes of COCO-20i: mIoU and FB-IoU of each fold."""
    from amsam_cli.bench.voc import Coco

    screen = Screen(verbose, quiet, as_json)
    _run_protocol(Coco(data), output, (folds, shots, episodes, seed), (methods, model, device), screen)


def _run_protocol(
    source: EpisodeSource,
    output: Path,
    asked: tuple[list[int] | None, list[int] | None, int, int],
    how: tuple[list[str] | None, str | None, str],
    screen: Screen,
) -> None:
    """Run every fold, shot count and method asked for, and print them side by side."""
    from amsam_cli.bench.contenders import load_method
    from amsam_cli.bench.episodes import Protocol, episode_table, run_episodes
    from amsam_cli.bench.voc import FOLDS
    from amsam_cli.models import choose_device

    folds, shots, episodes, seed = asked
    names, model, device_name = how
    device = str(choose_device(device_name))
    methods = [load_method(name, device, model=model) for name in names or ("amsam-in-context",)]
    results = []
    with screen.progress() as on_step:
        for method in methods:
            for count in shots or (1, 5):
                for fold in folds or FOLDS:
                    protocol = Protocol(fold, count, episodes, seed)
                    results.append(run_episodes(source, method, protocol, output, device=device, on_step=on_step))
    rows: list[Json] = [
        {"file": (output / r.place).as_posix(), "miou": r.miou, "fb_iou": r.fb_iou, "episodes": r.done} for r in results
    ]
    _show(episode_table(results), screen, rows)


@bench_app.command("table")
def table_command(
    results: Results,
    methods: Methods = None,
    sets: Sets = None,
    shots: ShownShots = None,
    seeds: Seeds = None,
    newest: Annotated[bool, typer.Option("--newest", help="Only the newest version of each method.")] = False,
    plot: Plot = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show results that are there, each version of a method and of its weights in a column of its own."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.bench import page
    from amsam_cli.bench.record import read_results

    found = _chosen(read_results(results), methods, sets, shots, seeds)
    _print_results(page.newest(found) if newest else found, results, plot, screen)


def _chosen(
    results: Sequence[Result],
    methods: Sequence[str] | None,
    sets: Sequence[str] | None,
    shots: Sequence[int] | None,
    seeds: Sequence[int] | None,
) -> list[Result]:
    """Return the results of some methods, sets, shot counts and draws; of all where none is named."""

    def is_chosen(result: Result) -> bool:
        asked = ((methods, result.method), (sets, result.set), (shots, result.shots), (seeds, result.seed))
        return all(not wanted or own in wanted for wanted, own in asked)

    return [result for result in results if is_chosen(result)]


@bench_app.command("convergence")
def convergence_command(
    results: Results,
    methods: Methods = None,
    sets: Sets = None,
    shots: ShownShots = None,
    seeds: Seeds = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show how many steps each arm needs: Dice of methods such as amsam-prompts@15 over their steps, newest version."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.bench.page import newest
    from amsam_cli.bench.promises import convergence_table
    from amsam_cli.bench.record import read_results

    found = newest(_chosen(read_results(results), methods, sets, shots, seeds))
    _show(convergence_table(found), screen)


@bench_app.command("forecast")
def forecast_command(
    results: Results,
    methods: Methods = None,
    sets: Sets = None,
    shots: ShownShots = None,
    seeds: Seeds = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show whether forecasts of each newest version hold, and what was expected of each mask, beside the truth."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.bench.page import newest
    from amsam_cli.bench.promises import expectation_table, forecast_table
    from amsam_cli.bench.record import read_results

    found = newest(_chosen(read_results(results), methods, sets, shots, seeds))
    _show(f"{forecast_table(found)}\n\n{expectation_table(found)}", screen)


@bench_app.command("readme")
def readme_command(
    results: Results,
    page: Annotated[Path, typer.Argument(metavar="PAGE", help="Markdown file with the two markers.")],
    methods: Methods = None,
    sets: Sets = None,
    shots: ShownShots = None,
    seeds: Seeds = None,
    name: Annotated[str, typer.Option(help="Of the markers, where a page has several tables.")] = "",
    plot: Plot = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the newest results into a page, between its markers, with date, machine and command."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.bench.page import fill, fragment, newest, write_plot
    from amsam_cli.bench.record import read_results

    found = newest(_chosen(read_results(results), methods, sets, shots, seeds))
    fill(page, fragment(found, folder=results.as_posix()), name)
    if plot:
        write_plot(found, plot)
    screen.say(f"{len(found)} results are in {page}")
    screen.result({"page": str(page), "results": len(found)})


@bench_app.command("speed")
def speed_command(
    repeats: Annotated[int, typer.Option(min=1, help="Turns of every piece of work; medians count.")] = 3,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the table to this JSON file.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write the table into this Markdown file, between the markers of --name.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the markers in --page.")] = "speed",
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Repeatable: start-up, learning, evaluation, propagation; "
            "long ones: sizes, depth, propagation-many, propagation-full."
        ),
    ] = None,
    device: Device = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Time start-up, learning, evaluation and propagation in one run: ratios, seconds, peak memory."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli.bench.machine import describe_machine
    from amsam_cli.bench.page import around, fill, speed_fragment
    from amsam_cli.bench.speed import speed_json, speed_table, time_works
    from amsam_cli.bench.workloads import works_of
    from amsam_cli.models import choose_device
    from amsam_cli.report import write_json

    if page:
        around(page, name)
    where = str(choose_device(device))
    works = works_of(only or (), device=where)
    with screen.progress() as on_step:
        timings = time_works(works, repeats=repeats, on_step=on_step)
    machine = describe_machine(where)
    content = {**speed_json(timings, repeats=repeats), "machine": machine}
    if output:
        write_json(content, output)
    screen.table(speed_table(timings))
    if page:
        fill(page, speed_fragment(timings, repeats=repeats, groups=only or (), machine=machine), name)
    screen.result(content)
