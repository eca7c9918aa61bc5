"""DICOM RTSTRUCT in: contours in patient space, filled on the grid of the images they were drawn on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import ensure_tuple
from numpy.typing import NDArray

from amsam_cli.errors import GeometryError, InputError
from amsam_cli.io import names as label_names
from amsam_cli.io.dicom.files import CONTOURS, quiet, read_files
from amsam_cli.io.dicom.painting import paint
from amsam_cli.io.dicom.stack import LPS_TO_RAS
from amsam_cli.io.readers import LABEL_NAMES
from amsam_cli.volume import Geometry

_log = logging.getLogger(__name__)

FLAT = 0.5
"""How far, in slices, a contour may lie off one slice."""


@dataclass(frozen=True)
class Contour:
    """A closed line within one slice.

    Attributes:
        axis: file axis that the slice lies across.
        index: which slice along it; may lie outside the grid.
        points: (N, 2) voxel coordinates along the two other axes, in their order.
    """

    axis: int
    index: int
    points: NDArray[np.float64]


class ContourReader(ImageReader):  # type: ignore[misc]
    """Reads a DICOM RTSTRUCT to one label map; MONAI has no reader for it.

    A voxel is inside where its centre is inside an odd number of a structure's contours in its slice, so that a contour
    within another is a hole. Slices between contours stay empty.

    Args:
        grid: the images' grid, file axes.
    """

    def __init__(self, grid: Geometry) -> None:
        super().__init__()
        self.grid = grid

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Return whether it is an RTSTRUCT."""
        return all(is_contours(Path(name)) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Return the data set of one file, with its name."""
        (name,) = ensure_tuple(data)
        return read_files(Path(name), pixels=True)[0]

    def get_data(self, img: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return label values (I, J, K) and MONAI's meta dictionary."""
        with quiet():
            structures = _structures(img, self.grid)
        _refuse_elsewhere(structures, self.grid, img.name)
        labels = paint(
            {number: number for number in structures},
            lambda number: _filled(structures[number][1], self.grid),
            name=img.name,
        )
        meta = {
            "affine": self.grid.affine.copy(),
            "original_affine": self.grid.affine.copy(),
            "spatial_shape": np.asarray(self.grid.shape),
            "space": "RAS",
            "original_channel_dim": float("nan"),
            "modality": "RTSTRUCT",
            LABEL_NAMES: label_names.to_text({number: name for number, (name, _) in structures.items()}),
        }
        return labels, meta


def is_contours(path: Path) -> bool:
    """Return whether a DICOM file is a set of contours."""
    return path.is_file() and read_files(path, pixels=False)[0].kind == CONTOURS


def _structures(file: Any, grid: Geometry) -> dict[int, tuple[str, list[Contour]]]:
    """Return number -> (name, contours) of every structure that has closed contours."""
    names = {int(roi.ROINumber): str(roi.get("ROIName", "")) for roi in file.header.get("StructureSetROISequence", ())}
    found = {}
    for roi in file.header.get("ROIContourSequence", ()):
        number = int(roi.ReferencedROINumber)
        name = names.get(number) or f"label_{number}"
        closed = [
            _contour(np.asarray(each.ContourData, dtype=np.float64).reshape(-1, 3), grid, f"'{name}' of '{file.name}'")
            for each in roi.get("ContourSequence", ())
            if str(each.get("ContourGeometricType", "")).startswith("CLOSED")
        ]
        if closed:
            found[number] = (name, closed)
    if not found:
        raise InputError(f"'{file.name}' holds no closed contour.", "Draw contours, or give another file.")
    return found


def _contour(points: NDArray[np.float64], grid: Geometry, called: str) -> Contour:
    """Return a contour (N, 3), LPS mm, in voxels of the slice it lies in."""
    to_voxel = np.linalg.inv(LPS_TO_RAS @ grid.affine)
    voxels = points @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    axis = int(np.ptp(voxels, axis=0).argmin()) if len(voxels) > 2 else 2
    off = float(np.abs(voxels[:, axis] - np.round(voxels[:, axis].mean())).max())
    if off > FLAT + 1e-3:
        raise GeometryError(
            f"A contour of {called} does not lie within one slice of the image: it spans "
            f"{np.ptp(voxels[:, axis]):.1f} slices.",
            "Give the images that it was drawn on.",
        )
    others = [other for other in range(3) if other != axis]
    return Contour(axis, round(float(voxels[:, axis].mean())), voxels[:, others])


def _refuse_elsewhere(structures: dict[int, tuple[str, list[Contour]]], grid: Geometry, name: str) -> None:
    contours = [contour for _, drawn in structures.values() for contour in drawn]
    outside = sum(not 0 <= contour.index < grid.shape[contour.axis] for contour in contours)
    if outside == len(contours):
        raise GeometryError(f"'{name}' lies outside of its image, all {outside} contours.", "Check the pairing.")
    if outside:
        _log.warning("'%s': %d of %d contours lie outside of the image", name, outside, len(contours))


def _filled(contours: Sequence[Contour], grid: Geometry) -> NDArray[np.bool_]:
    """Return a structure's mask (I, J, K)."""
    mask = np.zeros(grid.shape, np.bool_)
    for contour in contours:
        if 0 <= contour.index < grid.shape[contour.axis]:
            plane = np.moveaxis(mask, contour.axis, 0)[contour.index]
            plane ^= inside(contour.points, (plane.shape[0], plane.shape[1]))
    return mask


def inside(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixel centres lie inside a closed line, by counting its crossings along each line of pixels.

    Args:
        points: (N, 2) corners, in pixels.
        shape: of the picture, in the same order of axes.

    >>> inside(np.array([[0.5, 0.5], [0.5, 2.5], [2.5, 2.5], [2.5, 0.5]]), (3, 4)).astype(int).tolist()
    [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]]
    """
    ends = np.roll(points, -1, axis=0)
    lines = np.arange(shape[0])[:, None]
    crosses = (points[:, 0] <= lines) != (ends[:, 0] <= lines)  # (lines, edges)
    line, edge = np.nonzero(crosses)
    (y0, x0), (y1, x1) = points[edge].T, ends[edge].T
    at = np.ceil(x0 + (line - y0) / (y1 - y0) * (x1 - x0)).clip(0, shape[1]).astype(np.int64)
    toggles = np.zeros((shape[0], shape[1] + 1), np.int64)
    np.add.at(toggles, (line, at), 1)
    return np.asarray(toggles.cumsum(axis=1)[:, :-1] % 2 == 1)
