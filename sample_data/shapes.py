"""Soft shapes on a voxel grid: the clay that `abdomen.py` models organs from.

A shape is a *field*: an (I, J, K) float64 array, negative inside, positive outside, roughly millimetres near its
border. Axes are a CT file's own (i to the patient's left, j to the back, k to the head), positions LPS millimetres.
Knows nothing of anatomy and of files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter, label
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

Field: TypeAlias = NDArray[np.float64]
Point: TypeAlias = tuple[float, float, float]

FAR_MM = 12.0


@dataclass(frozen=True, eq=False)
class Space:
    """Where every voxel is, in the millimetres that anatomy is described in.

    Attributes:
        x: (I, J, K) towards the patient's left.
        y: (I, J, K) towards the back.
        z: (I, J, K) towards the head.
        spacing: voxel edges in mm along (i, j, k).
    """

    x: Field
    y: Field
    z: Field
    spacing: Point

    @classmethod
    def of_grid(cls, shape: tuple[int, int, int], spacing: Point) -> Space:
        """Return the space of a grid centred on the origin."""
        axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing, strict=True)]
        x, y, z = np.meshgrid(*axes, indexing="ij")
        return cls(x, y, z, spacing)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (i, j, k)."""
        return self.x.shape

    def moved(self, shift: Point = (0, 0, 0), scale: Point = (1, 1, 1)) -> Space:
        """Return the space in which everything drawn appears scaled, then shifted, by that much."""
        x, y, z = ((axis - s) / f for axis, s, f in zip((self.x, self.y, self.z), shift, scale, strict=True))
        return replace(self, x=x, y=y, z=z)

    def warped(self, rng: np.random.Generator, *, amplitude_mm: float, length_mm: float) -> Space:
        """Return the space bent by smooth random displacements: no two patients are built alike."""
        x, y, z = (axis + amplitude_mm * noise(rng, self, length_mm) for axis in (self.x, self.y, self.z))
        return replace(self, x=x, y=y, z=z)


def noise(rng: np.random.Generator, space: Space, length_mm: float) -> Field:
    """Return smooth noise, mean 0 and deviation 1, whose blobs are about `length_mm` wide.

    It is a sum of Gaussian bumps of random height on a lattice, written as three small matrix products.
    """
    sigma = length_mm / 3
    bumps = [_bumps(n, step, sigma) for n, step in zip(space.shape, space.spacing, strict=True)]
    heights = rng.standard_normal([axis.shape[1] for axis in bumps])
    for axis in bumps:
        heights = np.tensordot(heights, axis, axes=(0, 1))  # the axes rotate, after three turns they are back
    return np.asarray((heights - heights.mean()) / heights.std())


def _bumps(voxels: int, step_mm: float, sigma_mm: float) -> Field:
    """Return what each lattice bump, one every `sigma_mm` or every voxel, adds to each voxel, (voxels, bumps)."""
    length = voxels * step_mm
    sigma = max(sigma_mm, 0.5 * step_mm)
    centres = np.linspace(-3 * sigma, length + 3 * sigma, int(np.ceil(length / max(sigma, step_mm))) + 7)
    return np.asarray(np.exp(-(((np.arange(voxels)[:, None] + 0.5) * step_mm - centres) ** 2) / (2 * sigma**2)))


def ellipsoid(space: Space, centre: Point, radii: Point, *, turn: Point = (0, 0, 0), power: float = 2.0) -> Field:
    """Return a superellipsoid, turned by angles in degrees about x, y and z; higher powers are boxier."""
    offset = np.stack([space.x - centre[0], space.y - centre[1], space.z - centre[2]], axis=-1)
    if any(turn):
        offset = offset @ Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    radius = (np.abs(offset / np.asarray(radii)) ** power).sum(axis=-1) ** (1 / power)
    return np.asarray((radius - 1) * min(radii))


def curve(points: ArrayLike, *, step_mm: float = 1.5) -> NDArray[np.float64]:
    """Return a smooth curve through points (N, 3), resampled about every `step_mm`, (N, 3)."""
    knots = np.asarray(points, dtype=np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    return np.asarray(CubicSpline(along, knots)(np.linspace(0, along[-1], int(along[-1] / step_mm) + 2)))


def tube(space: Space, path: NDArray[np.float64], radius: ArrayLike) -> Field:
    """Return a tube around a path (N, 3) with one radius, or one for each point of the path."""
    radii = np.broadcast_to(np.asarray(radius, dtype=np.float64), len(path))
    position = np.stack([space.x, space.y, space.z], axis=-1)
    reach = radii.max() + FAR_MM
    near = ((position > path.min(axis=0) - reach) & (position < path.max(axis=0) + reach)).all(axis=-1)
    field = np.full(space.shape, FAR_MM)
    distance, nearest = cKDTree(path).query(position[near], distance_upper_bound=reach)
    hit = np.isfinite(distance)
    found = np.full(len(distance), FAR_MM)
    found[hit] = np.minimum(distance[hit] - radii[nearest[hit]], FAR_MM)
    field[near] = found
    return field


def union(*fields: Field, blend_mm: float = 0.0) -> Field:
    """Return what lies in any field; `blend_mm` rounds the seams like wet clay."""
    if not blend_mm:
        return np.asarray(np.minimum.reduce(fields))
    return np.asarray(-blend_mm * np.logaddexp.reduce([-field / blend_mm for field in fields]))


def common(*fields: Field) -> Field:
    """Return what lies in every field."""
    return np.asarray(np.maximum.reduce(fields))


def carve(field: Field, *tools: Field) -> Field:
    """Return the field without what lies in any of the tools."""
    return common(field, *(-tool for tool in tools))


def solid(field: Field, space: Space, *, rounding_mm: float = 2.5) -> Field:
    """Return the largest piece of a field with its fins and edges rounded off: an organ is one body."""
    rounded = gaussian_filter(field, [rounding_mm / step for step in space.spacing])
    pieces, count = label(rounded < 0)
    if count < 2:
        return np.asarray(rounded)
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return np.where((pieces > 0) & (pieces != largest), FAR_MM, rounded)


def coverage(field: Field) -> Field:
    """Return the part of each voxel's volume that lies inside, 0 to 1: the partial-volume effect.

    Takes the border for a plane within the voxel: exact for planes along the axes, close elsewhere.
    """
    width = np.sum([np.abs(np.gradient(field, axis=axis)) for axis in range(3)], axis=0)
    return np.asarray(np.clip(0.5 - field / np.maximum(width, 1e-6), 0, 1))


class Canvas:
    """A scan being painted, tissue over tissue, truth and intensity with the same brush.

    Attributes:
        hu: (I, J, K) float64 Hounsfield units.
        labels: (I, J, K) uint8; whatever is painted last owns the voxels that it fills by half.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.hu: Field = np.full(shape, -1000.0)
        self.labels: NDArray[np.uint8] = np.zeros(shape, dtype=np.uint8)

    def paint(self, field: Field, hu: float | Field, *, value: int = 0) -> None:
        """Lay a tissue of that intensity and label value over what is there."""
        cover = coverage(field)
        self.hu += cover * (hu - self.hu)
        self.labels[cover > 0.5] = value

    def tint(self, field: Field, hu: float | Field) -> None:
        """Lay an intensity inside a structure without changing whose voxels they are."""
        self.hu += coverage(field) * (hu - self.hu)
