"""Where results, warnings and progress go: stdout for what was asked, stderr for all else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

if TYPE_CHECKING:
    from amsam_cli.models.base import OnStep
    from amsam_cli.report import Json, Table

PIPE_WIDTH = 200
"""Columns of a table that goes to a file, where nobody's terminal limits it."""


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
