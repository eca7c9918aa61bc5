"""What an encoder made of every slice: encoded once for all labels, kept in half precision, in memory or on disk."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amsam_cli.models.base import Embedding, OnStep, PromptableModel
from amsam_cli.preprocess import Frames

BATCH = 16
"""Frames encoded at once."""
FREE_SHARE = 0.5
FALLBACK_GIB = 4.0


class Features:
    """The embeddings of all frames; rows come back in full precision on the model's device.

    Args:
        model: made them.
        levels: the maps of an `Embedding`, features first, each (D, C, h, w) float16.
        folder: where they lie if on disk; removed with this object.
    """

    def __init__(self, model: PromptableModel, levels: Sequence[Tensor], folder: Path | None) -> None:
        self.model = model
        self.is_on_disk = folder is not None
        self._levels = levels
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True) if folder else None

    @classmethod
    def encode(cls, model: PromptableModel, frames: Frames, *, limit_gib: float | None, on_step: OnStep) -> Features:
        """Return the features of all frames; past `limit_gib` they lie on disk."""
        levels: list[Tensor] = []
        folder = None
        pace = BATCH
        start = 0
        while start < len(frames):
            on_step("encode", start, len(frames))
            try:
                embedding = model.encode(frames.pixels(start, min(start + pace, len(frames))).to(model.device))
            except torch.OutOfMemoryError:
                if pace == 1:
                    raise
                pace //= 2
                continue
            maps = [embedding.features, *embedding.detail]
            if not levels:
                folder = _folder_for(maps, len(frames), limit_gib)
                levels = [_room(level, len(frames), folder, number) for number, level in enumerate(maps)]
            for level, part in zip(levels, maps, strict=True):
                level[start : start + len(part)] = part.to("cpu", torch.float16)
            start += len(embedding)
        on_step("encode", len(frames), len(frames))
        return cls(model, levels, folder)

    def __len__(self) -> int:
        return len(self._levels[0])

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
        features, *detail = (level[wanted].to(self.model.device, torch.float32) for level in self._levels)
        return Embedding(features, tuple(detail))


def _folder_for(maps: Sequence[Tensor], depth: int, limit_gib: float | None) -> Path | None:
    """Return a folder where the features of all slices would exceed the limit, else None."""
    size_gib = depth * sum(2 * level[0].numel() for level in maps) / 2**30
    limit = FREE_SHARE * _free_gib() if limit_gib is None else limit_gib
    return Path(tempfile.mkdtemp(prefix="amsam_")) if size_gib > limit else None


def _room(level: Tensor, depth: int, folder: Path | None, number: int) -> Tensor:
    """Return room for a level of all slices, float16, in memory or in a file."""
    shape = (depth, *level.shape[1:])
    if folder is None:
        return torch.empty(shape, dtype=torch.float16)
    path = folder / f"level_{number}"
    return torch.from_numpy(np.memmap(path, dtype=np.float16, mode="w+", shape=shape))


def _free_gib() -> float:
    """Return the memory that is free, in GiB; a guess where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, OSError, ValueError):
        return FALLBACK_GIB
