"""Scans and label maps from files of every format, in one canonical orientation.

`read_volume` and `read_labels` are the only places that permute or flip; what they did is in `Source.order`. Knows
which reader is for which format, not how any format works.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from numpy.typing import NDArray

from amsam_cli.errors import InputError
from amsam_cli.io import names as label_names
from amsam_cli.io.axes import axis_order, checked_geometry, plane_of_volume
from amsam_cli.io.dicom.contours import ContourReader, is_contours
from amsam_cli.io.dicom.files import is_annotation
from amsam_cli.io.dicom.segmentation import SegmentationReader, is_segmentation
from amsam_cli.io.dicom.stack import DicomSeriesReader, dicom_grid
from amsam_cli.io.formats import SUFFIXES, format_of, suffix_of
from amsam_cli.io.readers import (
    LABEL_NAMES,
    ItkReader,
    NiftiReader,
    PictureReader,
    itk_geometry,
    nifti_geometry,
    open_itk,
    open_nifti,
    open_picture,
)
from amsam_cli.io.regrid import Placed, joined, place
from amsam_cli.volume import FileFormat, Geometry, LabelMap, Plane, Source, Volume

_log = logging.getLogger(__name__)

HIGHEST_LABEL = int(np.iinfo(np.uint16).max)


@dataclass(frozen=True, eq=False)
class Stored:
    """A file's content, axes as in the file.

    Attributes:
        data: (C, I, J, K) numbers as the file has them, in the memory order of its format; of a picture (C, 1, H, W).
        source: where it came from; its order is not decided yet.
        names: label names from the header, if it has any.
    """

    data: NDArray[Any]
    source: Source
    names: Mapping[int, str]


def read_volume(path: Path, plane: Plane | None = None, *, series: str | None = None) -> Volume:
    """Return a scan as (C, D, H, W) in the canonical orientation of `plane`.

    Args:
        path: NIfTI, NRRD, MHA, a DICOM folder or zip; a PNG, JPEG or TIFF becomes one slice in pixels, whatever the
            plane.
        plane: how to slice; None takes the coarsest axis, else the file's third.
        series: which of several DICOM series, by number, UID or the end of the UID.

    Raises:
        InputError: missing, damaged, of unknown format, more than one volume, or a value is NaN or infinite.
        GeometryError: the header places voxels nowhere.
    """
    stored = read_stored(path, series=series)
    source = _ordered(stored.source, plane or plane_of_volume(stored.source.geometry))
    geometry = source.order.apply_to(source.geometry)
    data = np.empty((len(stored.data), *geometry.shape), dtype=np.float32)
    with np.errstate(over="ignore"):  # becomes infinite, which is refused below
        for channel, voxels in zip(data, stored.data, strict=True):
            channel[...] = source.order.apply(voxels)
    low, high = float(data.min()), float(data.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(np.count_nonzero(~np.isfinite(data)))
        raise InputError(
            f"'{path}' holds {bad} values that are NaN or infinite, of {data.size}.",
            "Replace them by the value of air or background, and save the scan again.",
        )
    return Volume(data, geometry, (low, high), source)


def read_labels(
    path: Path, plane: Plane, names: Mapping[int, str] | None = None, *, on: Geometry | None = None
) -> LabelMap:
    """Return a label map as (D, H, W) uint16 in the canonical orientation of `plane`.

    A picture that holds only 0 and 255 counts as 0 and 1. Names come from `names`, else from the header, else they are
    `label_1` and so on, for every value that occurs.

    Args:
        path: any format of scans, a DICOM SEG, or, with `on`, an RTSTRUCT.
        plane: how to slice.
        names: label value -> name.
        on: the image's grid in file axes, on which labels of another grid are then brought; None keeps their own.

    Raises:
        InputError: missing, damaged, of unknown format, or not whole numbers from 0 to 65535 in one channel.
        GeometryError: the header places voxels nowhere, or not where the image is.
    """
    stored, placed = placed_labels(Path(path), on)
    if placed.remark:
        _log.warning("Mask '%s' %s", Path(path).name, placed.remark)
    return oriented_labels(stored, placed.values, plane, names)


def oriented_labels(
    stored: Stored, values: NDArray[np.uint16], plane: Plane, names: Mapping[int, str] | None = None
) -> LabelMap:
    """Return values (I, J, K) on the grid of `stored` as a label map in the canonical orientation of `plane`."""
    order = axis_order(stored.source.geometry, plane)
    known = {**stored.names, **(names or {})}
    data = np.ascontiguousarray(order.apply(values), dtype=np.uint16)
    named = {value: known.get(value, f"label_{value}") for value in occurring_values(data)}
    return LabelMap(data, order.apply_to(stored.source.geometry), {**known, **named})


def read_label_pair(first: Path, second: Path, plane: Plane) -> tuple[LabelMap, LabelMap]:
    """Return two label maps that are to be compared.

    A DICOM annotation holds but the slices that show something, and numbers its structures as it likes: it is brought
    onto the grid of the other, and takes the other's value for a structure of the same name. Other files stay as they
    are.

    Raises:
        InputError: a file is no label map, or both are contours.
        GeometryError: they do not overlap in space.
    """
    paths = (Path(first), Path(second))
    is_sparse = [format_of(path) == "dicom" and is_annotation(path) for path in paths]
    on = _common_grid(*paths, is_sparse=(is_sparse[0], is_sparse[1])) if any(is_sparse) else None
    one, other = (
        read_labels(path, plane, on=on if sparse else None) for path, sparse in zip(paths, is_sparse, strict=True)
    )
    if is_sparse[0]:
        return _valued_like(one, other), other
    return one, _valued_like(other, one) if is_sparse[1] else other


def _common_grid(first: Path, second: Path, *, is_sparse: tuple[bool, bool]) -> Geometry:
    """Return the grid in file axes on which a pair with a DICOM annotation is compared."""
    if not is_sparse[1]:
        return read_grid(second)
    if not is_sparse[0]:
        return read_grid(first)
    own = [read_stored(path, is_labels=True).source.geometry for path in (first, second) if not is_contours(path)]
    if not own:
        raise InputError(
            f"'{first.name}' and '{second.name}' are contour sets (RTSTRUCT), which have no voxels.",
            "Evaluate contours against a mask on the grid of the images.",
        )
    return joined(own[0], own[1]) if len(own) == 2 else own[0]


def _valued_like(labels: LabelMap, other: LabelMap) -> LabelMap:
    """Return labels with the values that `other` has for structures of the same name."""
    known = {name.casefold(): value for value, name in other.names.items()}
    values = {value: known.get(name.casefold(), value) for value, name in labels.names.items()}
    if len(set(values.values())) < len(values):  # another structure has that value already
        return labels
    table = np.arange(HIGHEST_LABEL + 1, dtype=np.uint16)
    table[list(values)] = list(values.values())
    names = {values[value]: name for value, name in labels.names.items()}
    return LabelMap(table[labels.data], labels.geometry, names)


def placed_labels(path: Path, on: Geometry | None) -> tuple[Stored, Placed]:
    """Return a label file's content, its grid replaced by `on`, and its values there with what is to be said of it."""
    stored = read_stored(path, labels_on=on, is_labels=True)
    values = _label_values(stored, path)
    if on is None:
        return stored, Placed(values)
    own = stored.source
    placed = place(values, own.geometry, on, name=path.name)
    if placed.is_exact and own.format == "dicom":  # a SEG holds but the slices that show something
        placed = replace(placed, remark="")
    return replace(stored, source=replace(own, geometry=on)), placed


def _label_values(stored: Stored, path: Path) -> NDArray[np.uint16]:
    """Return the one channel of a label file as whole numbers."""
    first: NDArray[Any] = stored.data[0]
    if any(not np.array_equal(channel, first) for channel in stored.data[1:]):
        raise InputError(
            f"Mask '{path}' is in colours; expected one channel that holds the label values.",
            "Save it as a grey-value PNG with 0 for background and 1, 2, … for the labels.",
        )
    return _whole_numbers(first, path)


def occurring_values(values: NDArray[np.uint16]) -> tuple[int, ...]:
    """Return the labels in (D, H, W) values, ascending, without background.

    >>> occurring_values(np.array([[[0, 7]], [[2, 7]]], dtype=np.uint16))
    (2, 7)
    """
    flat = values.ravel(order="K")
    starts = flat[1:][flat[1:] != flat[:-1]]  # labels come in runs, whose first voxels are few
    return tuple(np.setdiff1d(np.append(starts, flat[:1]), [0]).tolist())


def _whole_numbers(values: NDArray[Any], path: Path) -> NDArray[np.uint16]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= HIGHEST_LABEL):  # also for NaN
        raise InputError(
            f"Mask '{path}' holds values from {low:g} to {high:g}; expected labels from 0 to {HIGHEST_LABEL}.",
            "Is it the image? Check which file is the mask.",
        )
    whole: NDArray[np.uint16] = values.astype(np.uint16)
    if values.dtype.kind == "f":
        broken = values[values.astype(np.float32) != whole]  # a scaled 1 may be 1.0000000001
        if broken.size:
            raise InputError(
                f"Mask '{path}' holds {broken.size} values that are no whole numbers, such as {float(broken[0]):g}.",
                "Is it the image, or a resampled mask? Resample masks by nearest neighbour only.",
            )
    return _as_labels(whole, path)


def _as_labels(values: NDArray[np.uint16], path: Path) -> NDArray[np.uint16]:
    """Return 0/255 masks as 0/1, and refuse lossy pictures, whose values are no labels."""
    if SUFFIXES.get(suffix_of(path)) != "image":
        return values
    inside = values != 0
    if (values[inside] == 255).all():
        return np.asarray(inside, dtype=np.uint16)
    if suffix_of(path) in (".jpg", ".jpeg"):
        raise InputError(
            f"Mask '{path}' is a JPEG, whose compression blurs label values.", "Save the mask as PNG and try again."
        )
    return values


def read_stored(
    path: Path, *, series: str | None = None, is_labels: bool = False, labels_on: Geometry | None = None
) -> Stored:
    """Return a file's content with axes as in the file.

    MONAI's readers are asked directly: its LoadImage would copy every voxel into C order and floating point, which for
    a label map of 512 x 512 x 500 voxels takes longer than reading it.

    Args:
        path: the file, folder or archive.
        series: which of several DICOM series.
        is_labels: whether it holds labels, not grey values.
        labels_on: the grid that contours are filled on; other labels keep their own.
    """
    path = Path(path)
    family = format_of(path)
    reader = _label_reader(path, family, labels_on) if is_labels else _reader(family, series)
    voxels, meta = reader.get_data(reader.read(path))
    modality, series_uid = str(meta.get("modality", "")), str(meta.get("series", ""))
    names = label_names.from_text(str(meta.get(LABEL_NAMES, "")))
    if family == "image" or meta.get("unit") == "px":
        width, height = voxels.shape[:2]
        data = np.moveaxis(voxels.reshape(width, height, -1), (2, 1, 0), (0, 1, 2))[:, None]
        geometry = Geometry.of_picture(height, width)
    else:
        i, j, k = (*voxels.shape, 1, 1)[:3]
        data = np.moveaxis(voxels.reshape(i, j, k, -1), -1, 0)
        geometry = checked_geometry((i, j, k), meta["affine"], str(path))
    return Stored(data, Source(path, family, geometry, modality=modality, series=series_uid), names)


def read_grid(path: Path, *, series: str | None = None) -> Geometry:
    """Return the grid of a scan in file axes, from its header alone."""
    path = Path(path)
    family = format_of(path)
    if family == "nifti":
        return nifti_geometry(open_nifti(path), path)
    if family == "image":
        with open_picture(path) as picture:
            return Geometry.of_picture(picture.height, picture.width)
    if family == "dicom":
        return dicom_grid(path, series)
    grid = itk_geometry(open_itk(path))
    return checked_geometry(grid.shape, grid.affine, str(path))


def _reader(family: FileFormat, series: str | None = None) -> ImageReader:
    if family == "nifti":
        return NiftiReader()
    if family == "image":
        return PictureReader()
    return DicomSeriesReader(series=series) if family == "dicom" else ItkReader()


def _label_reader(path: Path, family: FileFormat, grid: Geometry | None) -> ImageReader:
    if family == "image":
        return PictureReader(palette_as_values=True)
    if family == "dicom" and is_segmentation(path):
        return SegmentationReader()
    if family == "dicom" and is_contours(path):
        if grid is None:
            raise InputError(
                f"'{path.name}' is a contour set (RTSTRUCT), which has no voxels of its own.",
                "Give it beside its images, or against a mask on their grid.",
            )
        return ContourReader(grid)
    return _reader(family)


def _ordered(source: Source, plane: Plane) -> Source:
    return replace(source, order=axis_order(source.geometry, plane))
