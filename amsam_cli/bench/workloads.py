"""What `amsam bench speed` times: start-up of the command line, and learning from shots.

Each function returns a group of works whose first is what the others are compared with.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from amsam_cli.bench.base import Method
from amsam_cli.bench.speed import Work
from amsam_cli.volume import Shot


def startup_works() -> list[Work]:
    """Return the start of an empty Python, of the library, and of the command line that loads no torch."""
    commands = {
        "python, doing nothing": ("-c", "pass"),
        "import amsam_cli": ("-c", "import amsam_cli"),
        "amsam --version": ("-m", "amsam_cli", "--version"),
        "amsam --help": ("-m", "amsam_cli", "--help"),
        "amsam evaluate --help": ("-m", "amsam_cli", "evaluate", "--help"),
    }
    return [Work(name, "start-up", _starting(argv), own_process=True) for name, argv in commands.items()]


def _starting(argv: Sequence[str]) -> Callable[[], Callable[[], object]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}

    def run() -> object:
        return subprocess.run([sys.executable, *argv], check=True, capture_output=True, env=environment)

    return lambda: run


def learning_works(methods: Sequence[Method], shots: Sequence[Shot]) -> list[Work]:
    """Return learning from the same shots by each method; loading a model is counted, as users wait for it too."""

    def learning(method: Method) -> Callable[[], Callable[[], object]]:
        return lambda: lambda: method.fit(shots, seed=0)

    return [Work(f"{method.name} learns from {len(shots)} slices", "learning", learning(method)) for method in methods]
