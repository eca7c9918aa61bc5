"""MONAI image readers where MONAI has none or errs; each says which.

They give arrays in the file's own axes with a RAS+ affine, as every MONAI reader does, so they also serve in a user's
own `Compose([LoadImaged(keys, reader=NiftiReader), ...])`. Errors are ours, in words, with the file's name.
"""

from __future__ import annotations

import logging
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from monai.config import PathLike
from monai.data import ImageReader, NibabelReader, PILReader, is_supported_format
from monai.utils import ensure_tuple
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from PIL import Image

from amsam_cli.errors import InputError, ResourceError
from amsam_cli.io import names as label_names
from amsam_cli.io.axes import checked_geometry
from amsam_cli.volume import Geometry

_log = logging.getLogger(__name__)

LABEL_NAMES = "label_names"
"""Key of MONAI's meta dictionary under which label names travel, as `names.to_text` writes them."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


_DAMAGED = (
    OSError, EOFError, ValueError, OverflowError, SyntaxError, RuntimeError, zlib.error,
    ImageFileError, HeaderDataError, Image.DecompressionBombError,
)  # fmt: skip


@contextmanager
def unreadable_in_words(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a file library raises about a damaged file into an InputError that names the file."""
    if not path.exists():
        raise InputError(f"'{path}' does not exist.", "Check the spelling, and the folder that amsam runs in.")
    try:
        yield
    except MemoryError as err:
        raise ResourceError(
            f"'{path}' does not fit into memory, or its header is damaged.", "Check the size that its header gives."
        ) from err
    except _DAMAGED as err:
        raise InputError(
            f"'{path}' cannot be read as {kind}: {_reason(err)}",
            "The file is damaged, cut short or of another format; copy or export it again.",
        ) from err


def _reason(err: Exception) -> str:
    """Return the one line of a library's message that tells most: of ITK's stack the last, else the first."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()] or [type(err).__name__]
    return lines[-1 if "SimpleITK" in lines[0] else 0][:200]


@contextmanager
def muted(name: str) -> Iterator[None]:
    """Keep the remarks of one library's logger off the user's screen; what matters of them is raised in words."""
    logger = logging.getLogger(name)
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was


class NiftiReader(NibabelReader):  # type: ignore[misc]
    """Reads NIfTI as it is stored.

    MONAI's own reader replaces the sform by the qform, without a word, where voxel sizes disagree, and drops header
    extensions, in which our label names travel.
    """

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Return the nibabel image, or a list of them."""
        self.filenames = ensure_tuple(data)
        images = [open_nifti(Path(name)) for name in self.filenames]
        return images if len(images) > 1 else images[0]

    def _get_meta_dict(self, img: Any) -> dict[str, Any]:
        names = label_names.from_extensions(img.header.extensions)
        return {**super()._get_meta_dict(img), LABEL_NAMES: label_names.to_text(names)}

    def _get_array_data(self, img: Any, filename: PathLike) -> Any:
        with unreadable_in_words(Path(filename), "NIfTI"):
            return super()._get_array_data(img, filename)


def open_nifti(path: Path) -> Any:
    """Return the nibabel image of a NIfTI file, voxels unread.

    Raises:
        InputError: no NIfTI file, or of a kind that amsam does not segment.
    """
    with unreadable_in_words(path, "NIfTI"), muted("nibabel.global"):
        image = nib.load(path)
    if not isinstance(image, nib.Nifti1Pair):
        raise InputError(f"'{path}' is a {type(image).__name__}, not NIfTI.", "Convert it to .nii.gz.")
    dtype = image.get_data_dtype()
    if dtype.fields or dtype.kind == "c":
        kind = "complex numbers" if dtype.kind == "c" else "colours"
        raise InputError(f"'{path}' holds {kind}, expected one number per voxel.", "Convert it to a grey-value scan.")
    _warn_of_two_grids(image, nifti_shape(image, path), path)
    return image


def _warn_of_two_grids(image: Any, shape: tuple[int, int, int], path: Path) -> None:
    """Say aloud that sform and qform place the scan differently; the sform is used, as nibabel does."""
    sform, qform = image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]
    if sform is None or qform is None:
        return
    corners = [Geometry(shape, affine).corners() for affine in (sform, qform)]
    apart = float(np.abs(corners[0] - corners[1]).max())
    if apart > 0.5 * min(Geometry(shape, sform).spacing):
        _log.warning("'%s': its sform and qform lie %.1f mm apart; the sform is used", path.name, apart)


def nifti_shape(image: Any, path: Path) -> tuple[int, int, int]:
    """Return the three spatial sizes of a NIfTI image.

    Raises:
        InputError: a fourth axis holds more than one volume, or an axis is empty.
    """
    shape = tuple(int(size) for size in image.shape)
    if any(size > 1 for size in shape[3:]):
        raise InputError(
            f"'{path}' holds {int(np.prod(shape[3:]))} volumes, shape {shape}; expected one.",
            "Save the volume of interest as a file of its own (such as one time point).",
        )
    i, j, k = (*shape, 1, 1)[:3]
    if not i * j * k:
        raise InputError(f"'{path}' is empty, shape {shape}.", "Export the scan again.")
    return i, j, k


def nifti_geometry(image: Any, path: Path) -> Geometry:
    """Return the grid of a NIfTI image in file axes."""
    return checked_geometry(nifti_shape(image, path), np.asarray(image.affine), str(path))


class ItkReader(ImageReader):  # type: ignore[misc]
    """Reads NRRD and MHA/MHD through SimpleITK.

    MONAI reads NRRD by pynrrd, which leaves the space and centre conventions to the caller, and MHA by the itk package,
    a second copy of ITK. SimpleITK applies them all and is here already; this turns its LPS into RAS+.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Return whether the file name is one of NRRD or MetaImage."""
        return bool(is_supported_format(filename, ["nrrd", "nhdr", "mha", "mhd"]))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Return the SimpleITK image of one file."""
        (name,) = ensure_tuple(data)
        path = Path(name)
        reader = open_itk(path)
        with unreadable_in_words(path, "NRRD or MHA"), _itk_speaking():
            return reader.Execute()

    def get_data(self, img: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return voxels (I, J, K) or (I, J, K, C) and MONAI's meta dictionary."""
        geometry = itk_geometry(img)
        stored = sitk.GetArrayFromImage(img)  # (…, K, J, I) or (…, K, J, I, C)
        is_vector = img.GetNumberOfComponentsPerPixel() > 1
        channels = stored if is_vector else stored[..., None]
        voxels = np.moveaxis(channels.reshape(*geometry.shape[::-1], -1), (2, 1, 0), (0, 1, 2))
        text = img.GetMetaData(label_names.KEY) if img.HasMetaDataKey(label_names.KEY) else "{}"
        meta = {
            "affine": geometry.affine.copy(),
            "original_affine": geometry.affine.copy(),
            "spatial_shape": np.asarray(geometry.shape),
            "space": "RAS",
            "original_channel_dim": -1 if is_vector else float("nan"),
            LABEL_NAMES: text,
        }
        return voxels if is_vector else voxels[..., 0], meta


def open_itk(path: Path) -> Any:
    """Return a SimpleITK file reader that has read the header of an NRRD or MHA file.

    Raises:
        InputError: damaged, or more than three axes.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with unreadable_in_words(path, "NRRD or MHA"), _itk_speaking():
        reader.ReadImageInformation()
    size = reader.GetSize()
    if any(n > 1 for n in size[3:]):
        raise InputError(
            f"'{path}' has {len(size)} axes, size {size}; expected three.", "Save the volume of interest on its own."
        )
    return reader


@contextmanager
def _itk_speaking() -> Iterator[None]:
    """Hear what ITK's MetaImage library writes to stderr itself, and make it the reason if reading fails.

    It is C++ that knows no Python: only the file descriptor reaches it. Its exception then says a reason of no use.
    """
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    sys.stderr.flush()
    own = os.dup(2)
    with TemporaryFile() as words:
        os.dup2(words.fileno(), 2)
        try:
            yield
        except RuntimeError as err:
            words.seek(0)
            said = words.readline().decode(errors="replace").strip()
            raise RuntimeError(said or str(err)) from err
        finally:
            os.dup2(own, 2)
            os.close(own)


def itk_geometry(image: Any) -> Geometry:
    """Return the grid of a SimpleITK image, or of a reader that knows its header, in file axes and RAS+."""
    dimension = image.GetDimension()
    used = min(dimension, 3)
    direction = np.asarray(image.GetDirection()).reshape(dimension, dimension)[:used, :used]
    lps = np.eye(4)
    lps[:used, :used] = direction * np.asarray(image.GetSpacing())[:used]
    lps[:used, 3] = image.GetOrigin()[:used]
    i, j, k = (*(int(n) for n in image.GetSize()), 1, 1)[:3]
    return Geometry((i, j, k), LPS_TO_RAS @ lps)


class PictureReader(PILReader):  # type: ignore[misc]
    """Reads PNG, JPEG and TIFF to grey values or three colours.

    MONAI's own reader gives palette indices for colours, keeps transparency as a fourth channel, and takes the first
    page of a many-page TIFF without a word.

    Args:
        palette_as_values: keep palette indices, which in masks are the label values.
    """

    def __init__(self, *, palette_as_values: bool = False) -> None:
        super().__init__()
        self.palette_as_values = palette_as_values

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Return whether the file name is one of PNG, JPEG or TIFF."""
        return bool(is_supported_format(filename, ["png", "jpg", "jpeg", "bmp", "tif", "tiff"]))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Return the PIL image of one file, pixels loaded."""
        (name,) = ensure_tuple(data)
        path = Path(name)
        with open_picture(path) as image, unreadable_in_words(path, "a picture"):
            image.load()
            return self._plain(image)

    def _plain(self, image: Image.Image) -> Image.Image:
        if image.mode == "P" and self.palette_as_values:
            return image
        grey_too = {"1": "L", "LA": "L", "La": "L"}
        as_is = ("L", "RGB", "F", "I", "I;16", "I;16B", "I;16L")
        return image if image.mode in as_is else image.convert(grey_too.get(image.mode, "RGB"))


def open_picture(path: Path) -> Image.Image:
    """Return the PIL image of a file, pixels unread.

    Raises:
        InputError: no picture, or several pages.
    """
    with unreadable_in_words(path, "a picture"):
        image = Image.open(path)
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        image.close()
        raise InputError(f"'{path}' holds {pages} pages, expected one picture.", "Save each page as its own file.")
    return image
