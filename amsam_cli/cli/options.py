"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Log what happens to stderr.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no warnings.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Device = Annotated[str, typer.Option("-d", "--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Seed = Annotated[int, typer.Option(help="Same seed, same machine: same bytes.", min=0)]
