"""Files and folders that appear whole or not at all.

Everything amsam leaves on a disk goes through here: it is made under a hidden name beside its target and renamed at the
end, so that a full disk, Ctrl-C or a crash never leaves half a mask under the name of a whole one. Knows no format.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from amsam_cli.errors import InputError, ResourceError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary file name that becomes `path` if the block ends well.

    The name lies in the folder of `path`, which is created if need be, and ends like `path`, as writers choose by
    suffix. On any exception, Ctrl-C included, nothing new is left.

    Raises:
        InputError: the folder cannot be written.
        ResourceError: the disk is full.
    """
    hidden = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    with _disk_errors_in_words(path, hidden), _folder_of(path):
        if path.is_dir():
            raise InputError(f"'{path}' is a folder, a file is to be written there.", "Give another output name.")
        try:
            hidden.touch()
            yield hidden
            os.replace(hidden, path)  # noqa: PTH105 - Path.replace would hide that this is the one atomic step
        finally:
            hidden.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, marker: str | None = None) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` if the block ends well.

    Args:
        path: the folder wanted; one that is there already is replaced only if it is empty or holds `marker`.
        marker: name of a file by which a folder shows that we wrote it, such as "amsam.json".

    Raises:
        InputError: `path` holds something that is not ours, or cannot be written.
        ResourceError: the disk is full.
    """
    hidden = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    _refuse_foreign_folder(path, marker)
    with _disk_errors_in_words(path, hidden), _folder_of(path):
        try:
            hidden.mkdir()
            yield hidden
            _swap(hidden, path)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    """Put `new` in the place of `path`; a folder cannot be renamed over a full one, so the old one steps aside."""
    if not path.exists():
        new.rename(path)
        return
    aside = path.with_name(f"{new.name}.old")
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _refuse_foreign_folder(path: Path, marker: str | None) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"'{path}' is a file, a folder is to be written there.", "Give another output name.")
    if any(path.iterdir()) and not (marker and (path / marker).is_file()):
        expected = f"a folder with '{marker}', an empty one or none" if marker else "an empty folder or none"
        raise InputError(
            f"Folder '{path}' holds files that amsam did not write; expected {expected}.",
            "Give another output folder, or empty this one.",
        )


@contextmanager
def _folder_of(path: Path) -> Iterator[None]:
    """Create the folders above `path`, and on failure remove those that were created."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise


@contextmanager
def _disk_errors_in_words(path: Path, hidden: Path) -> Iterator[None]:
    """Turn what the disk refuses into our errors; errors about other files pass."""
    try:
        yield
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ResourceError(
                f"The disk is full: '{path}' was not written.", "Free some space, or give another output."
            ) from err
        if not _is_about(err, path, hidden):
            raise
        raise InputError(
            f"'{path}' cannot be written: {err.strerror}.",
            "Give an output in a folder that exists and that you may write.",
        ) from err


def _is_about(err: OSError, path: Path, hidden: Path) -> bool:
    if err.filename is None:
        return False
    named = Path(os.fsdecode(err.filename))
    return named in (path, hidden, *path.parents) or hidden in named.parents
