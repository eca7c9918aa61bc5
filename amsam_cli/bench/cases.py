"""The annotated slices and the scans that a draw names, read from its set."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from amsam_cli.bench.base import Query
from amsam_cli.bench.splits import DataSet, label_folder
from amsam_cli.errors import InputError
from amsam_cli.io import find_pairs, find_shots, read_labels, read_volume
from amsam_cli.volume import Geometry, LabelMap, Plane, Shot, Window

if TYPE_CHECKING:
    from amsam_cli.io import Candidate, Pair

OTHER_COPY = "The splits fit one copy of a data set; draw others with amsam_cli.bench.splits.draw_splits."


@dataclass(frozen=True, eq=False)
class Cases:
    """A set in a folder.

    Attributes:
        dataset: what counts in it.
        folder: with `images` and `labels`.
    """

    dataset: DataSet
    folder: Path

    @cached_property
    def _pairs(self) -> Mapping[str, Pair]:
        pairs = find_pairs(label_folder(self.folder), self.folder / "images", group=self.dataset.group)
        return {pair.image.name: pair for pair in pairs}

    def _pair(self, name: str) -> Pair:
        if name not in self._pairs:
            raise InputError(f"'{name}', drawn in the splits, is not among the scans of '{self.folder}'.", OTHER_COPY)
        return self._pairs[name]

    @property
    def _plane(self) -> Plane:
        return self.dataset.plane or "axial"

    def shots(self, origins: Sequence[str]) -> list[Shot]:
        """Return annotated slices by name.

        Raises:
            InputError: a slice is not there or holds no label.
        """
        return [self._shot(origin) for origin in origins]

    def candidates(self, origins: Sequence[str]) -> list[Candidate]:
        """Return every annotated slice of the scans that some slices are of.

        Raises:
            InputError: a scan is not there.
        """
        scans = dict.fromkeys(origin.rpartition(":")[0] or origin for origin in origins)
        return [candidate for name in scans for candidate in self._candidates(self._pair(name))]

    def _candidates(self, pair: Pair) -> list[Candidate]:
        return find_shots(pair.labels, pair.image, plane=self._plane, group=self.dataset.group)

    def _shot(self, origin: str) -> Shot:
        pair = self._pair(origin.rpartition(":")[0] or origin)
        candidates = self._candidates(pair)
        chosen = next((each for each in candidates if each.origin == origin), None)
        if chosen is None:
            raise InputError(f"Slice '{origin}', drawn in the splits, holds no label in '{self.folder}'.", OTHER_COPY)
        shot = chosen.read()
        window = self._window(shot.volume.geometry, pair.image.name)
        return replace(
            shot,
            volume=shot.volume.crop(window),
            labels=self._counted(shot.labels).crop(window),
            scan=lambda: shot.scan().crop(window),
        )

    def query(self, name: str) -> Query:
        """Return a scan to segment, by its file's name.

        Raises:
            InputError: it is not there or cannot be read.
        """
        pair = self._pair(name)
        volume, truth = read_volume(pair.image, self._plane), read_labels(pair.labels, self._plane)
        window = self._window(volume.geometry, name)
        return Query(volume.crop(window), self._counted(truth).crop(window))

    def patient_of(self, name: str) -> str:
        """Return whose scan a file is, as the set's names tell.

        Raises:
            InputError: it is not there.
        """
        return self._pair(name).patient

    def _counted(self, labels: LabelMap) -> LabelMap:
        """Return the labels that count, by the set's names."""
        values = list(self.dataset.labels)
        is_any = labels.data > 0
        kept = np.where(is_any, values[0], 0) if self.dataset.merged else labels.data * np.isin(labels.data, values)
        return LabelMap(kept.astype(np.uint16), labels.geometry, dict(self.dataset.labels))

    def _window(self, geometry: Geometry, name: str) -> Window:
        """Return the window of a scan: always the same for the same file."""
        chance = random.Random(f"{self.dataset.name} {name}")
        side = self.dataset.window
        height, width = (min(side, size) or size for size in geometry.shape[1:])
        top, left = (
            chance.randint(0, size - kept) for size, kept in zip(geometry.shape[1:], (height, width), strict=True)
        )
        return Window(top, left, height, width)
