"""Masks and scans to files: on the input's own grid, as integers where they are labels, whole or not at all.

Knows which writer is for which suffix, not how any format works.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import SaveImage
from numpy.typing import DTypeLike, NDArray

from amsam_cli.errors import AmsamError, GeometryError, InputError, ResourceError
from amsam_cli.io import names as label_names
from amsam_cli.io.atomic import atomic_path
from amsam_cli.io.formats import suffix_of
from amsam_cli.io.readers import LABEL_NAMES, NiftiReader
from amsam_cli.io.writers import ItkWriter, NiftiWriter
from amsam_cli.volume import AxisOrder, Geometry, LabelMap, Source, Volume

# A picture written as a volume: columns run to the patient's left, rows to the back, so that viewers show it upright.
_PICTURE_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


def write_labels(labels: LabelMap, path: Path, *, like: Source) -> None:
    """Write a label map on the grid, in the axes and with the orientation of the file it was made from.

    Args:
        labels: (D, H, W), as `read_volume` oriented the scan.
        path: .nii.gz, .nii, .nrrd, .mha, or .png for a picture. Appears whole or not at all.
        like: the scan's source. Values become uint8, or uint16 above 255; names travel in the header.

    Raises:
        GeometryError: the labels do not lie on the scan's grid.
        InputError: a format that amsam does not write, or a place that it may not write to.
        ResourceError: the disk is full.
    """
    path = Path(path)
    grid = like.order.apply_to(like.geometry)
    if not grid.matches(labels.geometry):
        raise GeometryError(
            f"Labels of shape {labels.geometry.shape} do not lie on the grid of '{like.path.name}', {grid.shape}.",
            "Segment the scan that the mask is written for.",
        )
    dtype = np.uint8 if int(labels.data.max(initial=0)) <= np.iinfo(np.uint8).max else np.uint16
    meta = {**_place_of(like), LABEL_NAMES: label_names.to_text(labels.names)}
    _write(like.order.undo(labels.data)[None], path, like.geometry, dtype=dtype, meta=meta)


def write_volume(volume: Volume, path: Path) -> None:
    """Write a scan, as stored where it was read from a file, else with the slices along the third axis.

    Args:
        volume: (C, D, H, W). Whole numbers that fit are written as 8 or 16 bit integers, else float32.
        path: .nii.gz, .nii, .nrrd or .mha for one channel; .png for a picture of one or three.

    Raises:
        InputError: a format that cannot hold it, or a place that it may not write to.
        ResourceError: the disk is full.
    """
    source = volume.source
    order = source.order if source else _picture_order() if volume.is_picture else _slices_last()
    stored = np.stack([order.undo(channel) for channel in volume.data])
    geometry = source.geometry if source else _undone(volume.geometry, order)
    _write(stored, Path(path), geometry, dtype=_dtype_for(volume), meta=_place_of(source) if source else {})


def _slices_last() -> AxisOrder:
    return AxisOrder((2, 1, 0))


def _picture_order() -> AxisOrder:
    return AxisOrder()


def _undone(canonical: Geometry, order: AxisOrder) -> Geometry:
    """Return the file's geometry for an order without flips."""
    axes = np.argsort(order.axes)
    affine = canonical.affine.copy()
    affine[:3, :3] = canonical.affine[:3, :3][:, axes]
    shape = canonical.shape[axes[0]], canonical.shape[axes[1]], canonical.shape[axes[2]]
    return Geometry(shape, affine, canonical.unit)


def _dtype_for(volume: Volume) -> DTypeLike:
    low, high = float(volume.data.min()), float(volume.data.max())
    if not (volume.data == np.round(volume.data)).all():
        return np.float32
    kinds: tuple[type[np.integer[Any]], ...] = (np.uint8, np.int16, np.uint16)
    fits = (kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return next(fits, np.float32)


def _place_of(source: Source) -> Mapping[str, Any]:
    """Return the header fields of a NIfTI file that place it, or nothing if it is no NIfTI or no longer there."""
    if source.format != "nifti":
        return {}
    try:
        reader = NiftiReader()
        return dict(reader._get_meta_dict(reader.read(source.path)))
    except AmsamError:
        return {}


def _write(stored: NDArray[Any], path: Path, geometry: Geometry, *, dtype: DTypeLike, meta: Mapping[str, Any]) -> None:
    """Write (C, I, J, K) in file axes by the suffix of `path`."""
    suffix = suffix_of(path)
    if suffix == ".png":
        _write_picture(stored, path, dtype=dtype)
        return
    if suffix not in VOLUME_SUFFIXES:
        raise InputError(
            f"'{path}' is of no format that amsam writes.", f"Use {', '.join(VOLUME_SUFFIXES)}, or .png for a picture."
        )
    if len(stored) != 1:
        raise InputError(f"'{path}' cannot hold {len(stored)} channels.", "Write a picture in colours as .png.")
    if geometry.unit == "px":  # (1, H, W) -> (W, H, 1)
        stored, geometry = np.swapaxes(stored, 1, 3), Geometry(geometry.shape[::-1], _PICTURE_AFFINE)
    writer = NiftiWriter if suffix.startswith(".nii") else ItkWriter
    _save(stored, path, writer=writer, dtype=dtype, meta={**meta, "affine": geometry.affine})


def _write_picture(stored: NDArray[Any], path: Path, *, dtype: DTypeLike) -> None:
    channels, depth = stored.shape[:2]
    if depth != 1:
        shape = stored.shape[1:]
        raise InputError(f"'{path}' cannot hold a volume of shape {shape}.", "Use .nii.gz for volumes.")
    if dtype not in (np.uint8, np.uint16) or channels not in (1, 3) or (channels == 3 and dtype != np.uint8):
        raise InputError(
            f"'{path}' cannot hold these values: {channels} channels of {np.dtype(dtype).name}.",
            "PNG holds whole numbers from 0 to 65535, or three channels from 0 to 255; use .nii.gz.",
        )
    _save(np.swapaxes(stored[:, 0], 1, 2), path, writer="PILWriter", dtype=dtype, meta={})


def _save(
    array: NDArray[Any], path: Path, *, writer: type[NiftiWriter] | str, dtype: DTypeLike, meta: Mapping[str, Any]
) -> None:
    """Write (C, …) in MONAI's axes through MONAI's SaveImage."""
    suffix = suffix_of(path)
    with atomic_path(path) as hidden:
        save = SaveImage(
            output_ext=suffix, output_dtype=dtype, resample=False, print_log=False, writer=writer, separate_folder=False
        )
        try:
            save(array, meta_data=dict(meta), filename=str(hidden)[: -len(suffix)])
        except RuntimeError as err:
            raise _cause(err, path, hidden) from err


def _cause(err: RuntimeError, path: Path, hidden: Path) -> Exception:
    """Return what went wrong under SaveImage, which gives every error as the text of its traceback."""
    number = re.findall(r"\[Errno (\d+)\]", str(err))
    if number:
        return OSError(int(number[-1]), os.strerror(int(number[-1])), str(hidden))
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return ResourceError(f"'{path}' could not be written: {lines[-1][:200]}", "Check the disk, or give another output.")
