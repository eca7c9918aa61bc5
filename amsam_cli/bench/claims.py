"""Who is at which piece of work, where several processes share one folder of results."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def claimed(place: Path) -> Iterator[bool]:
    """Say whether the work on `place` is ours until the block ends; False if another process is at it.

    A lock on a file beside it, which the system lifts however a process ends: nothing stale can be left.
    """
    mark = place.with_name(f".{place.name}.claim")
    mark.parent.mkdir(parents=True, exist_ok=True)
    with mark.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            mark.unlink(missing_ok=True)
