"""Exceptions as users see them: two lines on stderr and an exit code."""

from __future__ import annotations

import sys
import traceback

from rich.console import Console
from rich.text import Text

from amsam_cli.errors import AdapterError, AmsamError, InputError

BUG_REPORT = """
This is a bug in amsam, not a mistake of yours. Report it where you got amsam from,
with the lines above, the command line and what amsam --version prints.""".lstrip()
OK, FAILED, UNUSABLE, BUG = 0, 1, 2, 70


def exit_code_of(err: AmsamError) -> int:
    """Return 2 for an input or adapter that cannot be used, 1 for what failed at run time."""
    return UNUSABLE if isinstance(err, InputError | AdapterError) else FAILED


def print_error(err: AmsamError) -> None:
    """Print a known failure as two lines: what and where, then what to do next."""
    hint = err.hint or "amsam --help lists the commands, amsam COMMAND --help their options."
    console = Console(stderr=True, soft_wrap=True)
    console.print(Text(" ".join(err.message.split()), style="red"))
    console.print(Text(f"Hint: {' '.join(hint.split())}"))


def print_bug() -> None:
    """Print the exception being handled, which no part of amsam expected, and where to report it."""
    traceback.print_exc()
    print(BUG_REPORT, file=sys.stderr)
