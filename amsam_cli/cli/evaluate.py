"""`amsam evaluate`: masks against references."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amsam_cli.cli.options import AsJson, Quiet, Verbose
from amsam_cli.cli.screen import Screen

if TYPE_CHECKING:
    from amsam_cli.report import Report


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
