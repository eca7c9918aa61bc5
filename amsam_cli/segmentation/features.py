"""What an encoder made of every slice: encoded once for all labels, kept in half precision, in memory or on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from amsam_cli.models.base import Embedding, OnStep
from amsam_cli.models.batching import pace
from amsam_cli.preprocess import Frames

BATCH = 16
"""Frames encoded at once."""
FREE_SHARE = 0.5
FALLBACK_GIB = 4.0


class Encoder(Protocol):
    """Whatever makes features of frames."""

    @property
    def device(self) -> torch.device:
        """Where it works."""

    def encode(self, pixels: Tensor) -> Embedding:
        """Return the features of frames (B, 3, S, S)."""


class Level(Protocol):
    """One map of every slice, float16."""

    @property
    def shape(self) -> torch.Size:
        """(D, C, h, w)."""

    def put(self, start: int, part: Tensor) -> None:
        """Fill in the maps of some slices in a row."""

    def rows(self, index: Tensor) -> Tensor:
        """Return the maps of some slices."""


class InMemory:
    """A level in a tensor."""

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape
        self._values = torch.empty(shape, dtype=torch.float16)

    def put(self, start: int, part: Tensor) -> None:
        """Fill in the maps of some slices in a row."""
        self._values[start : start + len(part)] = part.to("cpu", torch.float16)

    def rows(self, index: Tensor) -> Tensor:
        """Return the maps of some slices."""
        return self._values[index]


class OnDisk:
    """A level in a file, which is mapped only while it is read: pages that stay mapped count as memory."""

    def __init__(self, shape: torch.Size, path: Path) -> None:
        self.shape = shape
        self._path = path
        path.touch()

    def put(self, start: int, part: Tensor) -> None:
        """Fill in the maps of some slices in a row."""
        values = part.to("cpu", torch.float16).numpy()
        with self._path.open("r+b") as file:
            file.seek(start * values[0].nbytes)
            file.write(values.tobytes())

    def rows(self, index: Tensor) -> Tensor:
        """Return the maps of some slices."""
        stored = np.memmap(self._path, dtype=np.float16, mode="r", shape=tuple(self.shape))
        return torch.from_numpy(stored[index.numpy()])


class Features:
    """The embeddings of all frames; rows come back in full precision on the model's device.

    Args:
        model: made them.
        levels: the maps of an `Embedding`, features first.
        folder: where they lie if on disk; removed with this object.
    """

    def __init__(self, model: Encoder, levels: Sequence[Level], folder: Path | None) -> None:
        self.model = model
        self.is_on_disk = folder is not None
        self._levels = levels
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True) if folder else None

    @classmethod
    def encode(cls, model: Encoder, frames: Frames, *, limit_gib: float | None, on_step: OnStep) -> Features:
        """Return the features of all frames; past `limit_gib` they lie on disk."""
        levels: list[Level] = []
        folder = None
        at_once = pace(model.device, frames.recipe.image_size, BATCH)
        start = 0
        while start < len(frames):
            on_step("encode", start, len(frames))
            try:
                embedding = model.encode(frames.pixels(start, min(start + at_once, len(frames))).to(model.device))
            except torch.OutOfMemoryError:
                if at_once == 1:
                    raise
                at_once //= 2
                continue
            maps = embedding.levels
            if not levels:
                folder = _folder_for(maps, len(frames), limit_gib)
                levels = [_room(level, len(frames), folder, number) for number, level in enumerate(maps)]
            for level, part in zip(levels, maps, strict=True):
                level.put(start, part)
            start += len(embedding)
        on_step("encode", len(frames), len(frames))
        return cls(model, levels, folder)

    def __len__(self) -> int:
        return int(self._levels[0].shape[0])

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the coarsest map."""
        return int(self._levels[0].shape[-2]), int(self._levels[0].shape[-1])

    def close(self) -> None:
        """Give up memory and disk; the features are gone."""
        self._levels = ()
        if self._remove:
            self._remove()

    def rows(self, index: Tensor | Sequence[int]) -> Embedding:
        """Return the embedding of some slices, in the order asked, each as often as asked."""
        wanted = torch.as_tensor(index)
        features, *detail = (level.rows(wanted).to(self.model.device, torch.float32) for level in self._levels)
        return Embedding(features, tuple(detail))


def _folder_for(maps: Sequence[Tensor], depth: int, limit_gib: float | None) -> Path | None:
    """Return a folder where the features of all slices would exceed the limit, else None."""
    size_gib = depth * sum(2 * level[0].numel() for level in maps) / 2**30
    limit = FREE_SHARE * _free_gib() if limit_gib is None else limit_gib
    return Path(tempfile.mkdtemp(prefix="amsam_")) if size_gib > limit else None


def _room(level: Tensor, depth: int, folder: Path | None, number: int) -> Level:
    """Return room for a level of all slices, in memory or in a file."""
    shape = torch.Size((depth, *level.shape[1:]))
    return InMemory(shape) if folder is None else OnDisk(shape, folder / f"level_{number}")


def _free_gib() -> float:
    """Return the memory that is free, in GiB; a guess where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, OSError, ValueError):
        return FALLBACK_GIB
