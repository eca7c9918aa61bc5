"""The nouns of amsam: a grid in space, a scan on it, a label map on it, an annotated slice.

Knows numpy only: no files, no torch, no model. Axes are always (C, D, H, W), D the slicing direction; affines are
always voxel (d, h, w) -> RAS+ mm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Plane = Literal["axial", "coronal", "sagittal"]
Unit = Literal["mm", "px"]
FileFormat = Literal["nifti", "nrrd", "mha", "dicom", "image"]

PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")

# Where the world directions point along (D, H, W) of each plane: rows run down the picture, columns to its right, and
# the patient's left is on the viewer's right, as radiologists look at slices.
CANONICAL_AXES: Mapping[Plane, str] = {"axial": "SPL", "coronal": "AIL", "sagittal": "LIP"}


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of every slice, in voxels: from row `top` and column `left`, `height` rows and `width` columns."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """The rows it covers."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """The columns it covers."""
        return slice(self.left, self.left + self.width)


@dataclass(frozen=True, eq=False)
class Geometry:
    """A regular grid in patient space.

    Attributes:
        shape: voxels along (D, H, W).
        affine: (4, 4) float64, voxel index (d, h, w, 1) -> RAS+ position in `unit`.
        unit: "mm", or "px" for a picture that has no size in space.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    unit: Unit = "mm"

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise ValueError(f"affine has shape {affine.shape}, expected (4, 4)")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def of_picture(cls, height: int, width: int) -> Geometry:
        """Return the geometry of a 2D picture: one slice, pixels for units."""
        return cls((1, height, width), np.eye(4), "px")

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """The distance between neighbouring voxels along (D, H, W), in `unit`.

        >>> Geometry((2, 2, 2), np.diag([5.0, 0.5, 0.5, 1.0])).spacing
        (5.0, 0.5, 0.5)
        """
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)

    @property
    def plane(self) -> Plane:
        """The anatomical plane of the slices: the one whose normal lies nearest to the D axis.

        >>> Geometry((2, 2, 2), np.eye(4)[[2, 1, 0, 3]]).plane
        'axial'
        """
        normals: tuple[Plane, ...] = ("sagittal", "coronal", "axial")
        return normals[int(np.abs(self.affine[:3, 0]).argmax())]

    @property
    def voxel_volume_ml(self) -> float:
        """The volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def corners(self) -> NDArray[np.float64]:
        """Return the world positions of the eight outermost voxel centres, (8, 3)."""
        ends = [(0.0, n - 1.0) for n in self.shape]
        index = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def matches(self, other: Geometry, *, tolerance_mm: float = 1e-2) -> bool:
        """Return whether both grids have the same voxels at the same places, up to `tolerance_mm` anywhere."""
        if self.shape != other.shape:
            return False
        return bool(np.abs(self.corners() - other.corners()).max() <= tolerance_mm)

    def slice(self, index: int) -> Geometry:
        """Return the geometry of slice `index` alone, at its own place in space."""
        return self.part(index, index + 1)

    def part(self, first: int, last: int) -> Geometry:
        """Return the geometry of slices `first` to `last` (exclusive), at their own place in space."""
        if not 0 <= first < last <= self.shape[0]:
            raise IndexError(f"slices {first} to {last} of a volume of {self.shape[0]}")
        affine = self.affine.copy()
        affine[:3, 3] += first * affine[:3, 0]
        return Geometry((last - first, *self.shape[1:]), affine, self.unit)

    def crop(self, window: Window) -> Geometry:
        """Return the geometry of a part of every slice, at its own place in space."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, 1:3] @ (window.top, window.left)
        return Geometry((self.shape[0], window.height, window.width), affine, self.unit)


@dataclass(frozen=True)
class AxisOrder:
    """How a file's own voxel axes became (D, H, W), and the way back.

    Attributes:
        axes: file axis that became D, H and W.
        flips: whether D, H and W run against that file axis.

    The labels of a volume written with `undo` lie in the file exactly as its image does.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)

    def apply(self, stored: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return `stored` (file axes, three of them) as a (D, H, W) view."""
        steps = tuple(slice(None, None, -1 if flip else None) for flip in self.flips)
        return stored.transpose(self.axes)[steps]

    def undo(self, canonical: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return a (D, H, W) array in the file's axes: the inverse of `apply`."""
        steps = tuple(slice(None, None, -1 if flip else None) for flip in self.flips)
        return canonical[steps].transpose(tuple(np.argsort(self.axes)))

    def apply_to(self, stored: Geometry) -> Geometry:
        """Return the geometry of `apply(array)` for an array whose geometry, in file axes, is `stored`."""
        affine = stored.affine.copy()
        shape = stored.shape[self.axes[0]], stored.shape[self.axes[1]], stored.shape[self.axes[2]]
        affine[:3, :3] = stored.affine[:3, :3][:, self.axes]
        for axis, flip in enumerate(self.flips):
            if flip:
                affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
                affine[:3, axis] *= -1
        return Geometry(shape, affine, stored.unit)

    def stored_index(self, index: int, depth: int) -> int:
        """Return the file's own index of slice `index` out of `depth`."""
        return depth - 1 - index if self.flips[0] else index


@dataclass(frozen=True, eq=False)
class Source:
    """Where a volume came from and how it was stored, enough to write a mask that lies on it.

    Attributes:
        path: the file, or the folder of a DICOM series.
        format: the family of file format.
        geometry: the grid in the file's own axes (i, j, k).
        order: how the file's axes became (D, H, W).
        modality: DICOM modality such as "CT", or "" where the format does not tell.
        series: UID of the DICOM series; "" of other formats.
    """

    path: Path
    format: FileFormat
    geometry: Geometry
    order: AxisOrder = AxisOrder()
    modality: str = ""
    series: str = ""


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan, or a 2D picture as a volume of depth one.

    Attributes:
        data: (C, D, H, W) float32, raw units (HU for CT).
        geometry: the grid of `data`'s last three axes.
        range: lowest and highest value of the whole scan, also when this is a single slice of it.
        source: where it came from; None for a volume made in memory.
    """

    data: NDArray[np.float32]
    geometry: Geometry
    range: tuple[float, float]
    source: Source | None = None

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or self.data.shape[1:] != self.geometry.shape:
            raise ValueError(f"data {self.data.shape} does not lie on a grid of {self.geometry.shape}")

    @property
    def depth(self) -> int:
        """The number of slices."""
        return self.geometry.shape[0]

    @property
    def is_picture(self) -> bool:
        """Whether this is a 2D picture without a size in space."""
        return self.geometry.unit == "px"

    def slice(self, index: int) -> Volume:
        """Return slice `index` as a volume of depth one that remembers the whole scan's range."""
        return self.part(index, index + 1)

    def part(self, first: int, last: int) -> Volume:
        """Return slices `first` to `last` (exclusive) at their place in space."""
        return Volume(self.data[:, first:last], self.geometry.part(first, last), self.range, self.source)

    def crop(self, window: Window) -> Volume:
        """Return a part of every slice, a view; its range stays that of the whole."""
        data = self.data[:, :, window.rows, window.columns]
        return Volume(data, self.geometry.crop(window), self.range, self.source)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Integer labels on a grid; 0 is background.

    Attributes:
        data: (D, H, W) uint16.
        geometry: the grid of `data`.
        names: label value -> name; values without a name are called `label_<value>` by readers.
    """

    data: NDArray[np.uint16]
    geometry: Geometry
    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data.shape != self.geometry.shape:
            raise ValueError(f"labels {self.data.shape} do not lie on a grid of {self.geometry.shape}")

    def mask(self, label: int) -> NDArray[np.bool_]:
        """Return where `label` is, (D, H, W) bool."""
        return np.asarray(self.data == label)

    def values(self) -> tuple[int, ...]:
        """Return the label values that occur, ascending, without background."""
        return tuple(int(value) for value in np.unique(self.data) if value)

    def slice(self, index: int) -> LabelMap:
        """Return slice `index` as a label map of depth one."""
        return LabelMap(self.data[index : index + 1], self.geometry.slice(index), self.names)

    def crop(self, window: Window) -> LabelMap:
        """Return a part of every slice, a view."""
        return LabelMap(self.data[:, window.rows, window.columns], self.geometry.crop(window), self.names)


@dataclass(frozen=True, eq=False)
class Shot:
    """One annotated slice: what a user hands us to learn from.

    Attributes:
        volume: the slice, depth one.
        labels: its annotation, depth one, on the same grid.
        scan: reads the whole scan the slice is from; its other slices are unlabelled.
        origin: "case_03.nii.gz:41", the index as in the file's own stored order; no index for a picture.
        patient: whose scan it is; shots of one patient never validate each other.
        position: where in the scan the slice lies, 0 first to 1 last.
    """

    volume: Volume
    labels: LabelMap
    scan: Callable[[], Volume]
    origin: str
    patient: str
    position: float = 0.5
