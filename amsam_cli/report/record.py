"""How a result was made: the record beside every mask, and what it is filled with.

What is written names no absolute path.
"""

from __future__ import annotations

import hashlib
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from amsam_cli.report.files import Json

_FOLDERS_IN_ARGUMENT = re.compile(r"^(--?[\w-]*=?)?(?:[A-Za-z]:)?[\\/](?:.*[\\/])?")
_FOLDERS_IN_TEXT = re.compile(
    r"""(?<=['"])(?:[A-Za-z]:)?[\\/](?:[^'"\n]*[\\/])?(?=[^'"\\/\n]+['"])"""  # quoted, spaces and all
    r"""|(?<![^\s=(,\[])(?:[A-Za-z]:)?[\\/](?=[\w.])(?:[^\s'"]*[\\/])?(?=\w)"""  # unquoted, up to a space
)


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    """How a result was made: enough to repeat it, nothing about the patient or the machine's folders.

    Attributes:
        version: of amsam.
        argv: the command line; folders of absolute paths are dropped when written.
        seed: of every random choice.
        device: "cpu", "cuda:0 NVIDIA …", …
        inputs: file name -> sha256.
        outputs: file name -> sha256.
        seconds: stage -> seconds, see `Stages`.
        peak_memory_mib: see `peak_memory_mib`.
        warnings: sentences for the user.
        settings: what the result depends on beside the inputs; equal settings, inputs and adapter give equal results.
        model: name of the model.
        model_sha256: of its weights.
        adapter_sha256: of the adapter; "" without one.
        confidence: label -> confidence of each slice, 0 to 1.
        expected_dice: label -> Dice to be expected of the whole mask, brought to the level of the shots.
        needs_review: label -> (first, last) slice of each range to look at, both included.
        statistics: label -> quantity -> value, such as {"liver": {"volume_ml": 1490.2}}.
    """

    version: str
    argv: Sequence[str] = ()
    seed: int = 0
    device: str = "cpu"
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_mib: float = 0.0
    warnings: Sequence[str] = ()
    settings: Mapping[str, Json] = field(default_factory=dict)
    model: str = ""
    model_sha256: str = ""
    adapter_sha256: str = ""
    confidence: Mapping[str, Sequence[float]] = field(default_factory=dict)
    needs_review: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    expected_dice: Mapping[str, float] = field(default_factory=dict)
    statistics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return the record for `write_json`, absolute paths cut down to names."""
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        content["argv"] = [_private_argument(argument) for argument in self.argv]
        private: dict[str, Json] = _without_folders(content)
        return private

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the record that was written; fields that this version does not know are passed over."""
        known = {item.name for item in fields(cls)}
        return cls(**{key: value for key, value in content.items() if key in known})


class Stages:
    """Measures the seconds that each stage of a run takes; a stage entered again adds up.

    >>> stages = Stages()
    >>> with stages.measure("read"):
    ...     pass
    >>> list(stages.seconds)
    ['read']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def peak_memory_mib() -> float:
    """Return the most memory this process has held so far, in MiB; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's file names and contents."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for child in sorted(child for child in path.rglob("*") if child.is_file()):
        whole.update(f"{child.relative_to(path).as_posix()}\0{sha256_of(child)}\n".encode())
    return whole.hexdigest()


def _private_argument(argument: str) -> str:
    """Return a command-line argument with an absolute path cut down to its last name.

    >>> _private_argument("--output=/home/jane doe/out/"), _private_argument("../labels")
    ('--output=out', '../labels')
    """
    trimmed = argument.rstrip("\\/") or argument
    return _FOLDERS_IN_ARGUMENT.sub(r"\1", trimmed)


def _without_folders(value: Any) -> Any:
    """Return a JSON value with the folders of absolute paths cut out of every text."""
    if isinstance(value, str):
        return _FOLDERS_IN_TEXT.sub("", value)
    if isinstance(value, Path):
        return value.name if value.is_absolute() else value.as_posix()
    if isinstance(value, Mapping):
        return {_without_folders(key): _without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    return value
