"""Reports as files for people and spreadsheets: CSV, Markdown, HTML pages that need nothing beside them."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from amsam_cli.report.files import finite, write_text
from amsam_cli.report.record import RunRecord
from amsam_cli.report.scores import Comparison, Report, Score, Table

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem;"
    "color:#222;background:#fff}"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}"
    "th:first-child,td:first-child,td:last-child{text-align:left}th{border-bottom:2px solid #888}"
    "tr.ruled td{background:#fff3e0}p.meta{color:#666}"
    "figure{margin:1rem 0}img{max-width:100%}figcaption{color:#444}"
)

HOW_COMPARED = (
    "Paired over patients: the mean difference with its 95 % bootstrap interval, the p-value of Wilcoxon's signed-rank "
    "test, not corrected for the number of rows, and as effect size the rank-biserial correlation (-1 to 1)."
)


def write_csv(report: Report, path: Path) -> None:
    """Write every score as a line of CSV: case, label, metric, value, unit, note, and the cohort if there are any.

    Raises:
        InputError: the folder cannot be written.
        ResourceError: the disk is full.
    """
    text = io.StringIO()
    names = [item.name for item in fields(Score)] + (["cohort"] if report.cohorts else [])
    writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(
        {**asdict(row), "value": finite(row.value), "cohort": report.cohorts.get(row.case)} for row in report.rows
    )
    write_text(text.getvalue(), path)


def write_markdown(report: Report, path: Path, *, comparison: Comparison | None = None) -> None:
    """Write the summary, the comparison and the warnings as Markdown.

    Raises:
        InputError: the folder cannot be written.
        ResourceError: the disk is full.
    """
    parts = [_markdown_table(report.summary_table())]
    if report.cohorts:
        parts.append(_markdown_table(report.cohort_table()))
    if comparison:
        parts.append(_markdown_table(comparison.table()))
    parts += [f"- {warning}" for warning in _warnings_of(report, comparison)]
    write_text("\n\n".join(parts) + "\n", path)


def _markdown_table(table: Table) -> str:
    header, *rows = [[cell.replace("|", "\\|") for cell in row] for row in table]
    return markdown_rows([header, ["---"] * len(header), *rows])


def markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells, the header's and the rule's among them, as lines of a Markdown table.

    >>> print(markdown_rows([["Set", "Dice"], ["hearts", "0.9"]]))
    | Set | Dice |
    | hearts | 0.9 |
    """
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _warnings_of(report: Report, comparison: Comparison | None) -> list[str]:
    return _listed(report.meta.get("warnings")) + list(comparison.warnings if comparison else ())


def _listed(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def write_html(
    report: Report,
    path: Path,
    *,
    title: str = "Evaluation",
    comparison: Comparison | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> None:
    """Write summary, cohorts, comparison, pictures, warnings and every case as one HTML page.

    Args:
        report: what was measured.
        path: the page; it needs nothing beside it, and no network.
        title: its heading.
        comparison: with other predictions.
        pictures: caption -> PNG, the worst case first.

    Raises:
        InputError: the folder cannot be written.
        ResourceError: the disk is full.
    """
    sections = [f'<p class="meta">{html.escape(" · ".join(_facts(report)))}</p>', "<h2>Summary</h2>"]
    sections.append(
        "<p>Mean over cases [95 % bootstrap interval over patients].</p>" + _html_table(report.summary_table())
    )
    if report.cohorts:
        sections += ["<h2>Cohorts</h2>", _html_table(report.cohort_table())]
    if comparison:
        sections += ["<h2>Comparison</h2>", f"<p>{html.escape(HOW_COMPARED)}</p>", _html_table(comparison.table())]
    sections += [f"<p>{html.escape(warning)}</p>" for warning in _warnings_of(report, comparison)]
    if pictures:
        sections += ["<h2>Worst cases</h2>", "<p>Areas: the prediction. Lines: the reference.</p>"]
        sections += [_figure(caption, png) for caption, png in pictures.items()]
    sections += ["<h2>Cases</h2>", _html_table(report.case_table(), ruled=True)]
    _write_page(title, sections, path)


def write_mask_page(record: RunRecord, path: Path, *, title: str, picture: bytes) -> None:
    """Write an HTML page about one mask: its picture, what to look at again, how it was made.

    Args:
        record: of the mask.
        path: the page; it needs nothing beside it, and no network.
        title: its heading.
        picture: a PNG of the mask on its scan.

    Raises:
        InputError: the folder cannot be written.
        ResourceError: the disk is full.
    """
    content = record.to_json()
    facts = [f"amsam {record.version}", f"model {record.model}", f"adapter {record.adapter_sha256[:12]}", record.device]
    facts += [f"{key} {value}" for key, value in record.settings.items() if isinstance(value, str | int)]
    facts.append(f"{sum(record.seconds.values()):.1f} s")
    sections = [f'<p class="meta">{html.escape(" · ".join(facts))}</p>']
    sections += [f"<p>{html.escape(str(warning))}</p>" for warning in _listed(content["warnings"])]
    sections += [_figure("Areas: the labels. Look at every slice before you use the mask.", picture)]
    sections += ["<h2>Labels</h2>", _html_table(_label_table(record), ruled=True)]
    sections += ["<h2>Confidence by slice</h2>", "<p>Taller is surer; what is to be reviewed is orange.</p>"]
    sections += [_strip(name, row, record.needs_review.get(name, ())) for name, row in record.confidence.items()]
    _write_page(title, sections, path)


def _label_table(record: RunRecord) -> Table:
    """Return a row for each label: its expected Dice, its measures, and the slices to look at again."""
    measures = list(dict.fromkeys(key for found in record.statistics.values() for key in found))
    rows: Table = [["Label", "Expected Dice", *(key.replace("_", " ") for key in measures), "To review"]]
    for name in record.confidence:
        found = record.statistics.get(name, {})
        expected = record.expected_dice.get(name)
        ranges = record.needs_review.get(name, ())
        rows.append(
            [
                name,
                "–" if expected is None else f"{expected:.2f}",
                *(f"{found[key]:.5g}" if key in found else "–" for key in measures),
                ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in ranges),
            ]
        )
    return rows


def _strip(name: str, confidence: Sequence[float], doubtful: Sequence[tuple[int, int]]) -> str:
    """Return a bar for each slice of a label, in the file's own order, as a drawing in the page."""
    width = max(1.0, min(12.0, 900 / max(1, len(confidence))))
    bars = []
    for index, value in enumerate(confidence):
        colour = "#e69f00" if any(first <= index <= last for first, last in doubtful) else "#5b8db8"
        height = 40 * value
        tip = f"<title>slice {index}: {value:.2f}</title>"
        bars.append(
            f'<rect x="{index * width:.1f}" y="{40 - height:.1f}" width="{0.9 * width:.1f}" height="{height:.1f}" '
            f'fill="{colour}">{tip}</rect>'
        )
    size = f'width="{width * len(confidence):.0f}" height="40"'
    return f"<p>{html.escape(name)}</p><svg {size}>{''.join(bars)}</svg>"


def _write_page(title: str, sections: Sequence[str], path: Path) -> None:
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    body = f"<h1>{html.escape(title)}</h1>" + "\n".join(sections)
    write_text(f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n', path)


def _facts(report: Report) -> list[str]:
    return [
        f"{key.replace('_', ' ')}: {value}"
        for key, value in report.meta.items()
        if isinstance(value, str | float | int)
    ]


def _figure(caption: str, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _html_table(table: Table, *, ruled: bool = False) -> str:
    """Return an HTML table; with `ruled`, rows that end in a note stand out."""
    header, *rows = table
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in header) + "</tr>"]
    for row in rows:
        mark = ' class="ruled"' if ruled and row[-1] else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"
