"""`amsam evaluate`: masks against references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amsam_cli.cli.options import AsJson, Quiet, Verbose
from amsam_cli.cli.screen import Screen

if TYPE_CHECKING:
    from amsam_cli.report import Comparison, Report

AGREEMENT = ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "volume_error_pct")
FOUND = ("precision", "recall", "lesion_f1", "lesion_precision", "lesion_recall")
MAIN = ("dice", "hd95_mm", "nsd", "lesion_f1")
"""Shown by cohort and in a comparison; files hold all."""
PICTURES = 6
"""Of the worst cases in the HTML page."""


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
    group: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Part of a case's name that is the patient; else every case is another."),
    ] = None,
    cohort: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Part of a case's name that says its cohort; scores by cohort.")
    ] = None,
    cohort_file: Annotated[
        Path | None, typer.Option(metavar="CSV", help="The same from a file with lines such as case_03,siemens.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Scans, to lie behind the pictures of the HTML page: a file or a folder.")
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure masks against references: overlap, surfaces, volume and lesions of every label, with intervals."""
    screen = Screen(verbose, quiet, as_json)
    from amsam_cli import evaluation
    from amsam_cli.report import write_csv, write_html, write_json

    if cohort and cohort_file:
        raise typer.BadParameter("it contradicts --cohort-file; give one of them.", param_hint="--cohort")
    with screen.progress() as on_step:
        report = evaluation.evaluate(
            predictions, references, tolerance_mm=tolerance_mm, on_case=lambda *n: on_step("evaluate", *n)
        )
        other = compare and evaluation.evaluate(
            compare, references, tolerance_mm=tolerance_mm, on_case=lambda *n: on_step("compare", *n)
        )
    if group:
        report = replace(report, patients=evaluation.groups_by_name(report.cases, group))
    if cohort:
        report = replace(report, cohorts=evaluation.groups_by_name(report.cases, cohort))
    elif cohort_file:
        report = replace(report, cohorts=evaluation.cohorts_from_file(report.cases, cohort_file))
    comparison = evaluation.compare(report, other) if other else None
    content = {**report.to_json(), **({"comparison": comparison.to_json()} if comparison else {})}
    if csv:
        write_csv(report, csv)
    if json_file:
        write_json(content, json_file)
    if html:
        pictures = _pictures(report, predictions, references, images, screen)
        write_html(report, html, comparison=comparison, pictures=pictures)
    _print_report(report, comparison, screen)
    screen.result(content)


def _print_report(report: Report, comparison: Comparison | None, screen: Screen) -> None:
    screen.table(report.summary_table(AGREEMENT))
    screen.say()
    screen.table(report.summary_table(FOUND))
    if report.cohorts:
        screen.say("\nBy cohort")
        screen.table(report.cohort_table(MAIN))
    if comparison:
        screen.say("\nFirst: the predictions; second: those of --compare.")
        screen.table(comparison.table(MAIN))
    screen.warn([*_warnings_of(report), *(comparison.warnings if comparison else ())])


def _pictures(
    report: Report, predictions: Path, references: Path, images: Path | None, screen: Screen
) -> dict[str, bytes]:
    """Return caption -> PNG of the worst cases, on their scans where these are given and lie on the same grid."""
    from amsam_cli import evaluation
    from amsam_cli.review import picture_of_difference

    pictures = {}
    for case in evaluation.worst_cases(report, PICTURES):
        prediction, reference = evaluation.read_pair(predictions, references, case)
        scan = evaluation.read_scan(images, case, reference.geometry) if images else None
        if images and scan is None:
            screen.warn([f"No scan on the grid of case '{case}' in '{images}'; it is pictured without."])
        pictures[f"{case}: {_scores_of(report, case)}"] = picture_of_difference(prediction, reference, scan)
    return pictures


def _scores_of(report: Report, case: str) -> str:
    """Return each label's Dice, and why where it is set by rule."""
    rows = [row for row in report.rows if row.case == case and row.metric == "dice" and row.value is not None]
    return ", ".join(f"{row.label} {row.value:.3f}{f' ({row.note})' if row.note else ''}" for row in rows)


def _warnings_of(report: Report) -> list[str]:
    warnings = report.meta.get("warnings", ())
    return [str(warning) for warning in warnings] if isinstance(warnings, list | tuple) else []
