"""From scan voxels to model frames and back: intensity, resampling, padding.

Owns `Recipe`, which travels inside the adapter so that a scan can never be prepared differently from the shots.
Knows neither files nor models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.volume import Geometry, LabelMap, Plane, Shot, Volume, Window

AIR_HU = -300.0
"""A scan with values below this and a tight foreground is taken for CT, whose units mean the same in every patient."""
PERCENTILES = (0.5, 99.5)
ZOOM_MARGIN = 1.5
"""Side of the zoomed window, in widths of what the shots show."""
ZOOM_PAYS = 0.75
"""Share of the slice above which a zoomed window shows nothing that the whole slice does not."""
CLOSEST = 4
"""Most frame pixels to a voxel."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How scans become frames.

    Attributes:
        plane: slicing plane; None for 2D pictures.
        window: (lo, hi) in raw units mapped to [0, 1], where units are absolute (CT); else None.
        percentiles: (lo, hi) of each whole scan mapped to [0, 1], where `window` is None.
        image_size: frame side S in pixels.
        channels: 1 grey, 3 colour.
        zoom: side in mm of the part of a slice that a second, closer look sees; None where the whole slice is close
            enough. A zoomed frame is a frame of `volume.crop(zoom_window(...))`.
        finer: side in pixels of the frames in which the closer look sees whole slices; None where it sees a part of
            them, or there is none.
    """

    plane: Plane | None
    window: tuple[float, float] | None
    percentiles: tuple[float, float]
    image_size: int
    channels: int
    zoom: float | None = None
    finer: int | None = None

    @property
    def closer(self) -> Recipe:
        """How scans become frames in the closer look."""
        return replace(self, image_size=self.finer or self.image_size)


def fit(shots: Sequence[Shot], *, image_size: int, plane: Plane | None, finer: int | None = None) -> Recipe:
    """Return the recipe the shots call for.

    CT gets one window for all scans, from the labelled tissue and what lies around it; everything else is scaled by
    the percentiles of each scan, because its units are arbitrary.

    Args:
        shots: annotated slices.
        image_size: frame side in pixels.
        plane: slicing plane; None for 2D pictures.
        finer: that of a closer look at whole slices, to be had where labels are too large to look at a part; it is
            taken where slices have that many voxels.
    """
    is_ct = all(_looks_like_ct(shot) for shot in shots)
    channels = max(shot.volume.data.shape[0] for shot in shots)
    window = _tissue_window(shots) if is_ct else None
    zoom = _fit_zoom(shots, image_size)
    has_more = finer is not None and not zoom and min(max(shot.volume.geometry.shape[1:]) for shot in shots) >= finer
    return Recipe(plane, window, PERCENTILES, image_size, 3 if channels > 1 else 1, zoom, finer if has_more else None)


def _fit_zoom(shots: Sequence[Shot], image_size: int) -> float | None:
    """Return half as much again as the widest labelled region in mm, None where that is most of a slice.

    Never closer than four frame pixels to a voxel: there is nothing more to see.
    """
    if any(shot.volume.is_picture for shot in shots):
        return None
    sides, wholes = [], []
    for shot in shots:
        _, spacing_h, spacing_w = shot.volume.geometry.spacing
        _, height, width = shot.volume.geometry.shape
        low, high = _bounds(shot.labels.data[0] > 0)
        sides += [ZOOM_MARGIN * (high[0] - low[0]) * spacing_h, ZOOM_MARGIN * (high[1] - low[1]) * spacing_w]
        sides.append(image_size / CLOSEST * max(spacing_h, spacing_w))
        wholes.append(max(height * spacing_h, width * spacing_w))
    side = max(sides)
    return round(side, 3) if side < ZOOM_PAYS * min(wholes) else None


def zoom_window(geometry: Geometry, region: NDArray[np.bool_], side: float) -> Window | None:
    """Return the square of `side` mm round the middle of `region` (H, W), inside the slice; None for no region.

    Larger where the region with a tenth of margin would not fit, cut down to the slice where that is smaller.
    """
    if not region.any():
        return None
    low, high = _bounds(region)
    spacing = geometry.spacing[1:]
    side = max([side, *(1.2 * (high[axis] - low[axis]) * spacing[axis] for axis in (0, 1))])
    return square_window(geometry, ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2), side)


def square_window(geometry: Geometry, middle: tuple[float, float], side: float) -> Window:
    """Return the square of `side` mm round a place (row, column) in voxels, moved and cut to lie inside the slice."""
    starts, sizes = [], []
    for at, whole, spacing in zip(middle, geometry.shape[1:], geometry.spacing[1:], strict=True):
        size = min(whole, max(1, round(side / spacing)))
        starts.append(min(max(0, round(at - size / 2)), whole - size))
        sizes.append(size)
    return Window(starts[0], starts[1], sizes[0], sizes[1])


def _bounds(region: NDArray[np.bool_]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first row and column of a region (H, W) and those after its last; it must not be empty."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return (int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1)


def _looks_like_ct(shot: Shot) -> bool:
    modality = shot.volume.source.modality if shot.volume.source else ""
    return modality == "CT" or (not shot.volume.is_picture and shot.volume.range[0] < AIR_HU)


def _tissue_window(shots: Sequence[Shot]) -> tuple[float, float]:
    """Return a window round the labelled tissue, twice as wide as its own spread and at least 300 HU."""
    tissue = np.concatenate([shot.volume.data[0][shot.labels.data > 0] for shot in shots])
    low, high = np.percentile(tissue, PERCENTILES)
    middle, width = (low + high) / 2, max(2.0 * (high - low), 300.0)
    return float(middle - width / 2), float(middle + width / 2)


def intensity_limits(scan: Volume, recipe: Recipe) -> tuple[float, float]:
    """Return the raw values that become 0 and 1, from the whole scan."""
    if recipe.window is not None:
        return recipe.window
    step = max(1, scan.data.size // 2_000_000)
    low, high = np.percentile(scan.data.reshape(-1)[::step], recipe.percentiles)
    if high <= low:
        low, high = scan.range
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a slice of `height` x `width` voxels lies in the square frame of side S.

    The slice keeps its proportions in millimetres; what is left of the frame is padding.
    """

    height: int
    width: int
    frame_height: int
    frame_width: int
    top: int
    left: int
    image_size: int

    @classmethod
    def of(cls, geometry: Geometry, image_size: int) -> Placement:
        """Return the placement of `geometry`'s slices."""
        _, height, width = geometry.shape
        _, spacing_h, spacing_w = geometry.spacing
        extent_h, extent_w = height * spacing_h, width * spacing_w
        longest = max(extent_h, extent_w)
        frame_height = max(1, round(image_size * extent_h / longest))
        frame_width = max(1, round(image_size * extent_w / longest))
        top, left = (image_size - frame_height) // 2, (image_size - frame_width) // 2
        return cls(height, width, frame_height, frame_width, top, left, image_size)

    def fill(self, slices: Tensor) -> Tensor:
        """Return `slices` (n, C, H, W) resampled and padded with zeros to (n, C, S, S)."""
        size = (self.frame_height, self.frame_width)
        resized = F.interpolate(slices, size=size, mode="bilinear", antialias=True, align_corners=False)
        right = self.image_size - self.frame_width - self.left
        bottom = self.image_size - self.frame_height - self.top
        return F.pad(resized, (self.left, right, self.top, bottom))

    def restore(self, maps: Tensor) -> Tensor:
        """Return `maps` (n, C, s, s) over the frame, at any resolution s, sampled at the voxels: (n, C, H, W)."""
        rows = (torch.arange(self.height, device=maps.device) + 0.5) / self.height * self.frame_height + self.top
        columns = (torch.arange(self.width, device=maps.device) + 0.5) / self.width * self.frame_width + self.left
        y, x = torch.meshgrid(2 * rows / self.image_size - 1, 2 * columns / self.image_size - 1, indexing="ij")
        grid = torch.stack([x, y], dim=-1).expand(len(maps), -1, -1, -1)
        return F.grid_sample(maps, grid.to(maps.dtype), mode="bilinear", padding_mode="border", align_corners=False)

    def to_frame(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return points (..., 2), xy in voxels of the slice, as pixels of the frame.

        >>> Placement(4, 8, 32, 64, top=16, left=0, image_size=64).to_frame(np.array([2.0, 1.0]))
        array([16., 24.])
        """
        scale = (self.frame_width / self.width, self.frame_height / self.height)
        return np.asarray(points * np.array(scale) + (self.left, self.top))

    def to_slice(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return points (..., 2), xy in pixels of the frame, as voxels of the slice.

        >>> Placement(4, 8, 32, 64, top=16, left=0, image_size=64).to_slice(np.array([16.0, 24.0]))
        array([2., 1.])
        """
        scale = (self.width / self.frame_width, self.height / self.frame_height)
        return np.asarray((points - (self.left, self.top)) * np.array(scale))


class Frames:
    """A scan as frames, made slice by slice when asked for.

    Args:
        volume: the scan, or one slice of it.
        recipe: how to prepare it.
        scan: the whole scan where `volume` is a slice; intensity is scaled by it.
    """

    def __init__(self, volume: Volume, recipe: Recipe, *, scan: Volume | None = None) -> None:
        self.volume = volume
        self.recipe = recipe
        self.placement = Placement.of(volume.geometry, recipe.image_size)
        self._low, self._high = intensity_limits(scan or volume, recipe)

    def __len__(self) -> int:
        return self.volume.depth

    def pixels(self, start: int, stop: int) -> Tensor:
        """Return frames `start` to `stop` (exclusive), (n, 3, S, S) float32 in [0, 1]."""
        raw = np.ascontiguousarray(self.volume.data[:, start:stop].swapaxes(0, 1))
        scaled = (torch.from_numpy(raw) - self._low) / max(self._high - self._low, 1e-6)
        frames = self.placement.fill(_to_channels(scaled, self.recipe.channels).clamp(0, 1))
        return frames.expand(-1, 3, -1, -1).clamp(0, 1)

    def batches(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (index of its first slice, frames) in batches of at most `size`."""
        for start in range(0, len(self), size):
            yield start, self.pixels(start, min(start + size, len(self)))

    def masks(self, labels: LabelMap, values: Sequence[int]) -> Tensor:
        """Return soft masks of `values`, (D, L, S, S) float32: the share of each pixel that the label covers."""
        stacked = np.stack([labels.mask(value) for value in values], axis=1)
        return self.placement.fill(torch.from_numpy(stacked.astype(np.float32)))


def _to_channels(slices: Tensor, channels: int) -> Tensor:
    """Return (n, C, H, W) with `channels` channels: colour becomes grey by its mean, grey is repeated."""
    if slices.shape[1] == channels:
        return slices
    return slices.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
