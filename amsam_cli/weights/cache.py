"""Checkpoint files on this machine: find, download, check.

A file is trusted when its SHA-256 is the published one or, where none is published, the one seen first. What was seen
is kept in a small JSON beside the file, with size and time, so that gigabytes are hashed once and not at every start.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from importlib import resources
from pathlib import Path
from typing import BinaryIO, Literal, cast
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from platformdirs import user_cache_path

from amsam_cli.errors import WeightsError
from amsam_cli.version import __version__
from amsam_cli.weights.registry import CHECKPOINTS, Checkpoint, find_checkpoint

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
TIMEOUT_S = 30.0

Progress = Callable[[int, int | None], None]
"""Called with the bytes there are and the bytes there will be, None if the server does not tell."""

State = Literal["ok", "missing", "damaged"]


@dataclass(frozen=True)
class Status:
    """What `verify` found of one checkpoint.

    Attributes:
        checkpoint: its entry in the registry.
        path: where its file is or would be.
        state: "ok", "missing" (not downloaded) or "damaged" (not the published or first seen bytes).
        sha256: of the file as it is; None if missing.
    """

    checkpoint: Checkpoint
    path: Path
    state: State
    sha256: str | None


def home() -> Path:
    """Return the folder of downloaded checkpoints: $AMSAM_HOME, else the platform's cache folder."""
    chosen = os.environ.get("AMSAM_HOME")
    return Path(chosen).expanduser() if chosen else user_cache_path("amsam", appauthor=False)


def is_offline() -> bool:
    """Return whether $AMSAM_OFFLINE or $HF_HUB_OFFLINE forbids the network."""
    values = (os.environ.get(name, "") for name in ("AMSAM_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() not in ("", "0", "false", "no", "off") for value in values)


def location(checkpoint: Checkpoint) -> Path:
    """Return where the file of `checkpoint` is, or would be once it is there."""
    if checkpoint.family == "builtin":
        return Path(str(resources.files("amsam_cli.weights") / checkpoint.file_name))
    return home() / checkpoint.file_name


def ensure(name: str, on_progress: Progress | None = None) -> Path:
    """Return the checked file of model `name`, downloading it at its first use.

    Raises:
        InputError: no model has that name.
        WeightsError: the file is missing and cannot be had, or is not what was published.
    """
    checkpoint = find_checkpoint(name)
    path = location(checkpoint)
    if path.is_file():
        _check(path, checkpoint)
        return path
    if checkpoint.family == "builtin":
        raise WeightsError(
            f"The built-in weights '{path}' are missing from this installation.",
            "install amsam again; the wheel contains them.",
        )
    return pull(name, on_progress)


def pull(name: str, on_progress: Progress | None = None) -> Path:
    """Download model `name` unless its checked file is there already, and return the file.

    An interrupted download goes on where it stopped; the file appears under its own name only once it is complete and
    checked. Proxies are those of the environment (`https_proxy`, `no_proxy`).

    Raises:
        InputError: no model has that name.
        WeightsError: the network is switched off, or the server refuses or sends something else than was published.
    """
    checkpoint = find_checkpoint(name)
    path = location(checkpoint)
    if checkpoint.family == "builtin" or path.is_file():
        return ensure(name)
    if is_offline():
        raise _not_here(checkpoint, "the network is switched off by AMSAM_OFFLINE or HF_HUB_OFFLINE")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(checkpoint, part, on_progress or _silent)
        _check(part, checkpoint, remember_beside=path)
        part.replace(path)
    except (HTTPException, OSError) as err:  # URLError and HTTPError are OSErrors
        reason = err.reason if type(err) is URLError else err
        raise _not_here(checkpoint, f"downloading it failed: {reason}") from err
    return path


def verify() -> list[Status]:
    """Return the state of every registered checkpoint, hashing each file that is here."""
    return [_status(checkpoint) for checkpoint in CHECKPOINTS.values()]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _status(checkpoint: Checkpoint) -> Status:
    """Return the state of one checkpoint; a first sight is recorded, but never inside the package."""
    path = location(checkpoint)
    if not path.is_file():
        return Status(checkpoint, path, "missing", None)
    digest = sha256_of(path)
    if checkpoint.family == "builtin":
        return Status(checkpoint, path, "ok", digest)
    expected = checkpoint.sha256 or _recorded(path).get("sha256", digest)
    if digest != expected:
        return Status(checkpoint, path, "damaged", digest)
    _record(path, path, digest)
    return Status(checkpoint, path, "ok", digest)


def _check(file: Path, checkpoint: Checkpoint, *, remember_beside: Path | None = None) -> None:
    """Raise unless `file` holds the published bytes, or those first seen where no hash is published.

    `remember_beside` is the file's final place, where that is another.
    """
    path = remember_beside or file
    if checkpoint.family == "builtin":
        return  # installed by pip, which checked it
    known = _recorded(path)
    expected = checkpoint.sha256 or known.get("sha256")
    if known == _stamp(file, str(expected)):
        return
    digest = sha256_of(file)
    if expected is not None and digest != expected:
        if file != path:
            file.unlink()  # a bad download is of no use; a bad file in its place may be the user's own
        source = "published" if checkpoint.sha256 else "first seen"
        raise WeightsError(
            f"Checkpoint '{file}' has SHA-256 {digest[:16]}…, but {expected[:16]}… was {source} for {checkpoint.name}.",
            f"delete it and run amsam models pull {checkpoint.name}; use other weights as {checkpoint.name}=FILE.",
        )
    _record(path, file, digest)


def _stamp(file: Path, sha256: str) -> dict[str, str]:
    """Return what identifies `file` without reading it again, and its hash."""
    stat = file.stat()
    return {"sha256": sha256, "size": str(stat.st_size), "modified_ns": str(stat.st_mtime_ns)}


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _recorded(path: Path) -> dict[str, str]:
    """Return what was recorded beside `path`; empty if nothing readable was."""
    try:
        record = json.loads(_record_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _record(path: Path, file: Path, digest: str) -> None:
    """Record the hash of `file` beside `path`; a read-only folder only costs the next start a hash."""
    stamp = _stamp(file, digest)
    if _recorded(path) == stamp:
        return
    target = _record_path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
        temporary.replace(target)
    except OSError as err:
        logger.info("cannot record the hash of %s: %s", path, err)


def _silent(done: int, total: int | None) -> None:
    """Report nothing."""


def _download(checkpoint: Checkpoint, part: Path, on_progress: Progress) -> None:
    """Fetch the file into `part`, going on from what is there if the server can."""
    # Two halves of two versions would go unnoticed without a published hash, so such files start anew.
    if checkpoint.sha256 is None:
        part.unlink(missing_ok=True)
    done = part.stat().st_size if part.is_file() else 0
    with _open(checkpoint.url, done) as response:
        if response.status != 206:
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if done else "wb") as file:
            done = _copy(response, file, done, total, on_progress)
    if total is not None and done != total:
        raise URLError(f"the connection broke after {done} of {total} bytes; run it again to go on from there")


def _open(url: str, start: int) -> HTTPResponse:
    """Open `url` from byte `start` on; a server that cannot start there sends all of it."""
    headers = {"User-Agent": f"amsam/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        return cast(HTTPResponse, urlopen(Request(url, headers=headers), timeout=TIMEOUT_S))
    except HTTPError as err:
        err.close()
        if err.code == 416 and start:  # what is there is already as long as the file, or longer
            return _open(url, 0)
        raise


def _copy(source: HTTPResponse, target: BinaryIO, done: int, total: int | None, on_progress: Progress) -> int:
    """Copy what `source` sends; return the bytes there are then."""
    on_progress(done, total)
    while chunk := source.read(CHUNK):
        target.write(chunk)
        done += len(chunk)
        on_progress(done, total)
    return done


def _not_here(checkpoint: Checkpoint, reason: str) -> WeightsError:
    """Return the error of a checkpoint that is not here: which file to place where."""
    path = location(checkpoint)
    return WeightsError(
        f"The weights of {checkpoint.name} are not at '{path}', and {reason}.",
        f"download {checkpoint.url} on a machine with a network and place it as '{path}',"
        f" or give the file at hand as {checkpoint.name}=FILE; --model builtin needs no download.",
    )
