"""PASCAL-5i and COCO-20i as they lie on disk: which pictures show which class, and their masks.

PASCAL VOC 2012: `JPEGImages/`, `SegmentationClassAug/` (else `SegmentationClass/`), `ImageSets/Segmentation/val.txt`.
COCO 2014: `val2014/` and either `annotations/instances_val2014.json`, as published, or `annotations/val2014/` with
a PNG of class numbers for each picture, as HSNet and its successors prepare it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from amsam_cli.errors import InputError

FOLDS = (0, 1, 2, 3)
IGNORED = 255
"""Value of a mask's pixels that count for nothing."""
FINER = 4
"""Pillow paints a polygon's border too; on a grid so much finer that is an eighth of a pixel."""
LEAST_PIXELS = 2 * 32 * 32
"""A picture shows a class if at least so many pixels of it do (PFENet's rule, which its successors kept)."""

PASCAL_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class EpisodeSource(Protocol):
    """A data set from which episodes are drawn."""

    @property
    def name(self) -> str:
        """In tables and file names."""

    def classes(self, fold: int) -> Mapping[int, str]:
        """Return number and name of the classes that a fold tests."""

    @property
    def members(self) -> Mapping[int, Sequence[str]]:
        """The pictures that show each class, in order of their names."""

    def picture(self, name: str) -> NDArray[np.uint8]:
        """Return a picture, (H, W, 3)."""

    def mask(self, name: str, number: int) -> NDArray[np.uint8]:
        """Return where a class is, (H, W): 1 inside, 0 outside, `IGNORED`."""


@dataclass(frozen=True, eq=False)
class Pascal:
    """PASCAL-5i: fold i tests classes 5i + 1 to 5i + 5 of PASCAL VOC 2012 on its validation pictures.

    Attributes:
        folder: `VOC2012`, or the folder above it.
    """

    folder: Path
    name: str = "pascal-5i"

    def classes(self, fold: int) -> Mapping[int, str]:
        """Return the five classes of a fold."""
        return {number: PASCAL_CLASSES[number - 1] for number in range(5 * fold + 1, 5 * fold + 6)}

    @cached_property
    def _root(self) -> Path:
        listed = "ImageSets/Segmentation/val.txt"
        places = (self.folder, self.folder / "VOC2012", self.folder / "VOCdevkit" / "VOC2012")
        return _first_with(places, listed, self.folder)

    @cached_property
    def _masks(self) -> Path:
        augmented = self._root / "SegmentationClassAug"
        return augmented if augmented.is_dir() else self._root / "SegmentationClass"

    @cached_property
    def members(self) -> Mapping[int, Sequence[str]]:
        """The validation pictures of each class."""
        names = (self._root / "ImageSets/Segmentation/val.txt").read_text(encoding="utf-8").split()
        return _members({name: _areas(_indices(self._masks / f"{name}.png")) for name in names})

    def picture(self, name: str) -> NDArray[np.uint8]:
        """Return a picture, (H, W, 3)."""
        return _colours(self._root / "JPEGImages" / f"{name}.jpg")

    def mask(self, name: str, number: int) -> NDArray[np.uint8]:
        """Return where a class is, (H, W): 1 inside, 0 outside, `IGNORED` on the borders of objects."""
        return _only(_indices(self._masks / f"{name}.png"), number)


@dataclass(frozen=True, eq=False)
class Coco:
    """COCO-20i: fold i tests classes i + 1, i + 5, i + 9, … of COCO's 80 on the validation pictures of 2014.

    Attributes:
        folder: holds `val2014` and `annotations`.
    """

    folder: Path
    name: str = "coco-20i"

    def classes(self, fold: int) -> Mapping[int, str]:
        """Return the twenty classes of a fold."""
        return {number: self._names.get(number, f"class {number}") for number in range(fold + 1, 81, 4)}

    @cached_property
    def _root(self) -> Path:
        return _first_with((self.folder, self.folder / "COCO2014", self.folder / "MSCOCO2014"), "val2014", self.folder)

    @cached_property
    def _prepared(self) -> Path | None:
        folder = self._root / "annotations" / "val2014"
        return folder if folder.is_dir() else None

    @cached_property
    def _published(self) -> Mapping[str, Any]:
        path = self._root / "annotations" / "instances_val2014.json"
        try:
            content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as err:
            raise InputError(f"'{path}' cannot be read: {err}.", "Unpack COCO's annotations_trainval2014.zip.") from err
        return content

    @cached_property
    def _numbers(self) -> Mapping[int, int]:
        """The class number of each category; categories are numbered with gaps."""
        ids = sorted(category["id"] for category in self._published["categories"])
        return {identity: number for number, identity in enumerate(ids, start=1)}

    @cached_property
    def _names(self) -> Mapping[int, str]:
        if self._prepared:
            return {}
        return {self._numbers[each["id"]]: each["name"] for each in self._published["categories"]}

    @cached_property
    def _outlines(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The annotations of each picture."""
        names = {image["id"]: image["file_name"].removesuffix(".jpg") for image in self._published["images"]}
        found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in self._published["annotations"]:
            found[names[annotation["image_id"]]].append(annotation)
        return found

    @cached_property
    def members(self) -> Mapping[int, Sequence[str]]:
        """The validation pictures of each class."""
        if self._prepared:
            return _members({path.stem: _areas(_indices(path)) for path in sorted(self._prepared.glob("*.png"))})
        areas: dict[str, dict[int, float]] = {}
        for name in sorted(self._outlines):
            per_class: dict[int, float] = defaultdict(float)
            for annotation in self._outlines[name]:
                per_class[self._numbers[annotation["category_id"]]] += annotation["area"]
            areas[name] = per_class
        return _members(areas)

    def picture(self, name: str) -> NDArray[np.uint8]:
        """Return a picture, (H, W, 3)."""
        return _colours(self._root / "val2014" / f"{name}.jpg")

    def mask(self, name: str, number: int) -> NDArray[np.uint8]:
        """Return where a class is, (H, W): 1 inside, 0 outside."""
        if self._prepared:
            return _only(_indices(self._prepared / f"{name}.png"), number)
        height, width = self.picture(name).shape[:2]
        mask = np.zeros((height, width), dtype=np.uint8)
        for annotation in self._outlines[name]:
            if self._numbers[annotation["category_id"]] == number:
                mask |= _rasterised(annotation["segmentation"], height, width)
        return mask


def _first_with(places: Sequence[Path], wanted: str, given: Path) -> Path:
    found = next((place for place in places if (place / wanted).exists()), None)
    if found is None:
        raise InputError(f"'{given}' has no '{wanted}'.", "Give the folder the data set was unpacked to.")
    return found


def _members(areas: Mapping[str, Mapping[int, float]]) -> dict[int, list[str]]:
    """Return class -> names of the pictures that show enough of it."""
    members: dict[int, list[str]] = defaultdict(list)
    for name, per_class in areas.items():
        for number, area in per_class.items():
            if area >= LEAST_PIXELS and number not in (0, IGNORED):
                members[number].append(name)
    return members


def _areas(mask: NDArray[np.uint8]) -> dict[int, float]:
    counts = np.bincount(mask.ravel(), minlength=256)
    return {int(number): float(counts[number]) for number in np.flatnonzero(counts)}


def _indices(path: Path) -> NDArray[np.uint8]:
    """Return the values of a PNG of class numbers, (H, W); of one with a palette its indices."""
    try:
        with Image.open(path) as image:
            return np.asarray(image if image.mode in ("P", "L") else image.convert("L"), dtype=np.uint8)
    except OSError as err:
        raise InputError(f"'{path}' cannot be read: {err}.", "Unpack the data set again.") from err


def _colours(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except OSError as err:
        raise InputError(f"'{path}' cannot be read: {err}.", "Unpack the data set again.") from err


def _only(mask: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """Return 1 where a mask of class numbers shows a class, `IGNORED` where it is undecided."""
    return np.where(mask == IGNORED, IGNORED, mask == number).astype(np.uint8)


def _rasterised(outline: Any, height: int, width: int) -> NDArray[np.uint8]:
    """Return COCO's polygons, or its run lengths of a crowd (column by column, outside first), as a mask."""
    if isinstance(outline, Mapping):
        runs = np.asarray(outline["counts"])
        return np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T.astype(np.uint8)
    canvas = Image.new("L", (FINER * width, FINER * height), 0)
    pen = ImageDraw.Draw(canvas)
    for polygon in outline:
        if len(polygon) >= 6:
            corners = np.asarray(polygon, dtype=float).reshape(-1, 2) * FINER - 0.5
            pen.polygon([(x, y) for x, y in corners.tolist()], fill=1)
    shares = np.asarray(canvas, dtype=np.float32).reshape(height, FINER, width, FINER).mean(axis=(1, 3))
    mask: NDArray[np.uint8] = (shares > 0.5).astype(np.uint8)
    return mask
