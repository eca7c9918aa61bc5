"""JSON in and out: no NaN, and on disk whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from amsam_cli.errors import InputError
from amsam_cli.io.atomic import atomic_path

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | float | bool | None"
"""A value that JSON can hold."""


def json_text(value: Json) -> str:
    """Return a value as JSON text; NaN and infinity become null.

    >>> print(json_text({"dice": float("nan"), "name": "Größe"}))
    {
      "dice": null,
      "name": "Größe"
    }
    """
    return json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)


def write_json(value: Json, path: Path) -> None:
    """Write a value as a JSON file.

    Raises:
        InputError: the folder cannot be written.
        ResourceError: the disk is full.
    """
    write_text(json_text(value) + "\n", path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        InputError: missing, no JSON, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise InputError(f"'{path}' cannot be read as JSON: {err}.", "Write it again with amsam.") from err
    if not isinstance(content, dict):
        raise InputError(f"'{path}' holds no JSON object.", "Write it again with amsam.")
    return content


def write_text(text: str, path: Path) -> None:
    """Write a text file, UTF-8.

    Raises:
        InputError: the folder cannot be written.
        ResourceError: the disk is full.
    """
    with atomic_path(Path(path)) as hidden:
        hidden.write_text(text, encoding="utf-8")


def finite(value: Any) -> Any:
    """Return a JSON value of plain Python numbers, None for NaN and infinity, which JSON does not have."""
    if isinstance(value, np.generic | np.ndarray):
        return finite(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
