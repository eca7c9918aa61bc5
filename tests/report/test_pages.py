import base64
import csv
import re
from dataclasses import replace

import pytest

from amsam_cli.errors import InputError
from amsam_cli.report import Comparison, Difference, Report, Score, write_csv, write_html, write_markdown

REPORT = Report(
    (
        Score("a", "<b>liver</b>", "dice", 0.123456789),
        Score("b", "<b>liver</b>", "dice", None, "", "absent in both"),
    ),
    {"tolerance_mm": 1.0, "warnings": ["'x' has no reference"]},
)
PNG = b"\x89PNG"
COMPARISON = Comparison((Difference("liver", "dice", "", 2, 0.9, 0.8, 0.1, None, None, 0.5, 1.0),), ("only 2 cases",))


def test_csv_holds_every_score_at_full_precision(tmp_path):
    write_csv(REPORT, tmp_path / "a.csv")

    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["value"] for row in rows] == ["0.123456789", ""]
    assert list(rows[0]) == ["case", "label", "metric", "value", "unit", "note"]


def test_markdown_holds_summary_comparison_and_warnings(tmp_path):
    write_markdown(REPORT, tmp_path / "a.md", comparison=COMPARISON)

    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert "| <b>liver</b> | 1 | 1 | 0.123 |" in text
    assert "+0.100" in text
    assert "- only 2 cases" in text


def test_html_asks_nothing_of_the_network(tmp_path):
    write_html(REPORT, tmp_path / "a.html", comparison=COMPARISON, pictures={"a": PNG})

    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=(?!.data:)|<link|<script|@import|url\(", text)


def test_html_escapes_what_comes_from_files(tmp_path):
    write_html(REPORT, tmp_path / "a.html")

    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "&lt;b&gt;liver" in text


def test_html_marks_the_rows_with_a_note(tmp_path):
    write_html(REPORT, tmp_path / "a.html")

    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.count('class="ruled"') == 1
    assert text.index('class="ruled"') < text.index("absent in both")


def test_page_is_refused_in_words_when_its_name_is_a_folder(tmp_path):
    with pytest.raises(InputError, match="folder"):
        write_csv(REPORT, tmp_path)


def test_html_holds_its_pictures(tmp_path):
    write_html(REPORT, tmp_path / "a.html", pictures={"case <a>": PNG})

    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert f"data:image/png;base64,{base64.b64encode(PNG).decode()}" in text
    assert "<figcaption>case &lt;a&gt;</figcaption>" in text


def test_pages_show_cohorts(tmp_path):
    report = replace(REPORT, cohorts={"a": "GE", "b": "Siemens"})

    write_html(report, tmp_path / "a.html")
    write_csv(report, tmp_path / "a.csv")
    write_markdown(report, tmp_path / "a.md")

    assert "<h2>Cohorts</h2>" in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[1].endswith(",GE")
    assert "| Siemens |" in (tmp_path / "a.md").read_text(encoding="utf-8")
