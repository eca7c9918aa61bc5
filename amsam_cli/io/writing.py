"""Masks and scans to files: on the input's own grid, as integers where they are labels, whole or not at all.

Knows which writer is for which suffix, not how any format works.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageWriter, PILWriter
from monai.transforms import SaveImage
from numpy.typing import DTypeLike, NDArray

from amsam_cli.errors import AmsamError, GeometryError, InputError, ResourceError
from amsam_cli.io import names as label_names
from amsam_cli.io.atomic import atomic_path
from amsam_cli.io.dicom.writer import AUTHOR, Author, SegmentationWriter
from amsam_cli.io.formats import suffix_of
from amsam_cli.io.readers import LABEL_NAMES, NiftiReader, muted
from amsam_cli.io.writers import ItkWriter, NiftiWriter
from amsam_cli.volume import AxisOrder, Geometry, LabelMap, Source, Volume

# A picture written as a volume: columns run to the patient's left, rows to the back, so that viewers show it upright.
_PICTURE_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


def write_labels(labels: LabelMap, path: Path, *, like: Source, author: Author | None = None) -> None:
    """Write a label map on the grid, in the axes and with the orientation of the file it was made from.

    Args:
        labels: (D, H, W), as `read_volume` oriented the scan.
        path: .nii.gz, .nii, .nrrd, .mha, .dcm for the SEG of a DICOM series, or .png for a picture. Appears whole or
            not at all.
        like: the scan's source. Values become uint8, or uint16 above 255; names travel in the header.
        author: who found the labels and what they are, for a SEG.

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
    meta = {**_place_of(like), LABEL_NAMES: label_names.to_text(labels.names), AUTHOR: author}
    _write(like.order.undo(labels.data)[None], path, like.geometry, dtype=dtype, meta=meta)


def write_probabilities(
    probabilities: Mapping[int, NDArray[np.float16]],
    names: Mapping[int, str],
    path: Path,
    *,
    like: Source,
    author: Author | None = None,
) -> None:
    """Write the probability of each label at each voxel, a channel per label by ascending value.

    Args:
        probabilities: label value -> (D, H, W) float16. No format but DICOM's holds 16-bit fractions, so these are
            stored as float32, whose last bits are zero and compress away.
        names: label value -> name.
        path: .nii.gz, .nii, .nrrd, .mha, or .dcm for a fractional SEG. Appears whole or not at all.
        like: the scan's source.
        author: who found the labels and what they are, for a SEG.

    Raises:
        InputError: a format that amsam does not write, or a place that it may not write to.
        ResourceError: the disk is full.
    """
    path, values = Path(path), sorted(probabilities)
    stored = np.stack([like.order.undo(probabilities[value]) for value in values])
    known = {value: names[value] for value in values}
    meta = {**_place_of(like), LABEL_NAMES: label_names.to_text(known), AUTHOR: author}
    _write(stored, path, like.geometry, dtype=np.float32, meta=meta)


def write_volume(volume: Volume, path: Path) -> None:
    """Write a scan, as stored where it was read from a file, else with the slices along the third axis.

    Args:
        volume: (C, D, H, W). Whole numbers that fit are written as 8 or 16 bit integers, else float32.
        path: .nii.gz, .nii, .nrrd or .mha for one channel; .png for a picture of one or three.

    Raises:
        InputError: a format that cannot hold it, or a place that it may not write to.
        ResourceError: the disk is full.
    """
    path, source = Path(path), volume.source
    if suffix_of(path) == ".dcm" or (len(volume.data) > 1 and suffix_of(path) in VOLUME_SUFFIXES):
        raise InputError(
            f"'{path}' cannot hold a scan of {len(volume.data)} channels.", "Use .nii.gz, or .png for colours."
        )
    order = source.order if source else _picture_order() if volume.is_picture else _slices_last()
    stored = np.stack([order.undo(channel) for channel in volume.data])
    geometry = source.geometry if source else _undone(volume.geometry, order)
    _write(stored, path, geometry, dtype=_dtype_for(volume), meta=_place_of(source) if source else {})


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
    """Return what of the input's header places it: NIfTI's own fields, or which DICOM series it is."""
    if source.format == "dicom":
        return {"filename_or_obj": str(source.path), "series": source.series}
    if source.format != "nifti":
        return {}
    try:
        reader = NiftiReader()
        with muted("amsam_cli.io.readers"):  # what there is to say was said when the scan was read
            return dict(reader._get_meta_dict(reader.read(source.path)))
    except AmsamError:
        return {}  # no longer there


def _write(stored: NDArray[Any], path: Path, geometry: Geometry, *, dtype: DTypeLike, meta: Mapping[str, Any]) -> None:
    """Write (C, I, J, K) in file axes by the suffix of `path`."""
    suffix = suffix_of(path)
    if suffix == ".png":
        _write_picture(stored, path, dtype=dtype)
        return
    if geometry.unit == "px":  # (1, H, W) -> (W, H, 1)
        stored, geometry = np.swapaxes(stored, 1, 3), Geometry(geometry.shape[::-1], _PICTURE_AFFINE)
    if suffix == ".dcm":
        _refuse_other_than_dicom(path, meta)
        _save(stored, path, writer=SegmentationWriter, dtype=dtype, meta=meta)
        return
    if suffix not in VOLUME_SUFFIXES:
        raise InputError(
            f"'{path}' is of no format that amsam writes.",
            f"Use {', '.join(VOLUME_SUFFIXES)}, .dcm for DICOM series, or .png for a picture.",
        )
    writer = NiftiWriter if suffix.startswith(".nii") else ItkWriter
    _save(stored, path, writer=writer, dtype=dtype, meta={**meta, "affine": geometry.affine})


def _refuse_other_than_dicom(path: Path, meta: Mapping[str, Any]) -> None:
    if "filename_or_obj" not in meta or "series" not in meta:
        raise InputError(
            f"'{path}' as DICOM SEG needs a DICOM series, but the scan is none.",
            "Use .nii.gz, or give the DICOM folder as input.",
        )


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
    _save(np.swapaxes(stored[:, 0], 1, 2), path, writer=PILWriter, dtype=dtype, meta={})


def _save(
    array: NDArray[Any], path: Path, *, writer: type[ImageWriter], dtype: DTypeLike, meta: Mapping[str, Any]
) -> None:
    """Write (C, …) in MONAI's axes through MONAI's SaveImage."""
    suffix, told = suffix_of(path), list[Exception]()
    with atomic_path(path) as hidden:
        save = SaveImage(
            output_ext=suffix,
            output_dtype=dtype,
            resample=False,
            print_log=False,
            writer=_telling(writer, told),
            separate_folder=False,
        )
        try:
            save(array, meta_data=dict(meta), filename=str(hidden)[: -len(suffix)])
        except RuntimeError as err:
            raise _cause(told, err, path, hidden) from err


def _telling(writer: type[ImageWriter], told: list[Exception]) -> type[ImageWriter]:
    """Return a writer that notes what stops it; SaveImage would give nothing but the text of a traceback."""

    class Telling(writer):  # type: ignore[misc]
        def write(self, filename: str, verbose: bool = False, **kwargs: Any) -> None:
            try:
                super().write(filename, verbose=verbose, **kwargs)
            except (AmsamError, OSError) as err:
                told.append(err)
                raise

    return Telling


def _cause(told: list[Exception], err: RuntimeError, path: Path, hidden: Path) -> Exception:
    if told and isinstance(told[0], OSError) and told[0].filename is None:
        return OSError(told[0].errno, told[0].strerror, str(hidden))
    if told:
        return told[0]
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return ResourceError(f"'{path}' could not be written: {lines[-1][:200]}", "Check the disk, or give another output.")
