"""What amsam found and how it ran, as records, and their files.

scores      Score, Report with its summary, Comparison of two reports
record      RunRecord, how a result was made
files       JSON without NaN, written whole or not at all
pages       CSV, Markdown, HTML
"""

from amsam_cli.report.files import Json, json_text, read_json, write_json
from amsam_cli.report.pages import markdown_rows, write_csv, write_html, write_markdown, write_mask_page
from amsam_cli.report.record import RunRecord, Stages, peak_memory_mib, sha256_of
from amsam_cli.report.scores import MEAN, Comparison, Difference, Report, Score, Summary, Table

__all__ = [
    "MEAN",
    "Comparison",
    "Difference",
    "Json",
    "Report",
    "RunRecord",
    "Score",
    "Stages",
    "Summary",
    "Table",
    "json_text",
    "markdown_rows",
    "peak_memory_mib",
    "read_json",
    "sha256_of",
    "write_csv",
    "write_html",
    "write_json",
    "write_markdown",
    "write_mask_page",
]
