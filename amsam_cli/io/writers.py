"""MONAI image writers where MONAI has none or errs; each says which.

They take arrays in the file's own axes with a RAS+ affine, as every MONAI writer does, so they also serve in a user's
own `Compose([..., SaveImaged(keys, writer=NiftiWriter)])`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from monai.config import PathLike
from monai.data import NibabelWriter
from numpy.typing import NDArray

from amsam_cli.io import names as label_names
from amsam_cli.io.readers import LABEL_NAMES, LPS_TO_RAS

# What of a NIfTI header says where voxels are; MONAI's readers put each under its own name into the meta dictionary.
_PLACE = (
    "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
_SCANNER = 1  # NIfTI code of "scanner anatomical" coordinates
_MILLIMETRE = 2


class NiftiWriter(NibabelWriter):  # type: ignore[misc]
    """Writes NIfTI onto the very grid of the file it was read from.

    MONAI's own writer drops a third axis of one slice, sends labels through floating point, and rebuilds the qform so
    that its numbers differ from the input's; and it has no place for label names. This one copies the fields that place
    the image where they still hold, and codes both forms.
    """

    def set_data_array(
        self, data_array: Any, channel_dim: int | None = 0, squeeze_end_dims: bool = True, **kwargs: Any
    ) -> None:
        """Take the array; of the axes only a single channel is dropped."""
        array = self.convert_to_channel_last(
            data=data_array, channel_dim=channel_dim, squeeze_end_dims=False, spatial_ndim=3
        )
        self.data_obj = array[..., 0] if array.shape[-1] == 1 else array

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, resample: bool = True, **options: Any) -> None:
        """Take the affine, the stored place and label names; resample only onto an original grid that differs."""
        meta = dict(meta_dict or {})
        self.meta = meta
        affine = np.asarray(meta.get("affine", np.eye(4)), dtype=np.float64)
        original = np.asarray(meta.get("original_affine", affine), dtype=np.float64)
        self.affine: Any = affine
        if resample and not np.allclose(affine, original):
            super().set_metadata(meta, resample=True, **options)

    def write(self, filename: PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Write the file."""
        nib.save(self._image(), filename)

    def _image(self) -> Any:
        image = nib.Nifti1Image(self._array(), None)
        _place(image.header, np.asarray(self.affine), self.meta)
        names = label_names.from_text(str(self.meta.get(LABEL_NAMES, "")))
        if names:
            image.header.extensions.append(label_names.to_extension(names))
        return nib.Nifti1Image(image.dataobj, None, image.header)

    def _array(self) -> NDArray[Any]:
        return np.asarray(self.data_obj, dtype=self.output_dtype)


def _place(header: Any, affine: NDArray[np.float64], meta: Mapping[str, Any]) -> None:
    """Write `affine` into a header as both sform and qform, as the input's own numbers where those mean the same."""
    if _copy_place(header, affine, meta):
        missing_sform, missing_qform = header["sform_code"] == 0, header["qform_code"] == 0
        if missing_sform == missing_qform:  # both there, or both absent: every program reads mask and scan alike
            return
        code = int(max(header["sform_code"], header["qform_code"]))
    else:
        missing_sform, missing_qform, code = True, True, _SCANNER
        header.set_xyzt_units(_MILLIMETRE)
    if missing_sform:
        header.set_sform(affine, code)
    if missing_qform:
        header.set_qform(affine, code, strip_shears=True)
        if not np.allclose(header.get_qform(), affine, atol=1e-3):  # sheared: a quaternion cannot say it
            header["qform_code"] = 0


def _copy_place(header: Any, affine: NDArray[np.float64], meta: Mapping[str, Any]) -> bool:
    """Copy the input's own fields into `header`; return False, leaving it, where they do not give `affine`."""
    if any(key not in meta for key in _PLACE) or "sizeof_hdr" not in meta:
        return False
    trial = nib.Nifti1Header()
    trial.set_data_shape(header.get_data_shape())
    for key in _PLACE:
        trial[key] = np.asarray(meta["original_pixdim" if key == "pixdim" and "original_pixdim" in meta else key])
    if not np.array_equal(trial.get_best_affine(), affine):
        return False
    for key in _PLACE:
        header[key] = trial[key]
    return True


class ItkWriter(NiftiWriter):
    """Writes NRRD and MHA through SimpleITK; MONAI needs the itk package for it, a second copy of ITK."""

    def write(self, filename: PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Write the file, compressed."""
        array = self._array()
        is_vector = array.ndim == 4
        image = sitk.GetImageFromArray(np.ascontiguousarray(np.swapaxes(array, 0, 2)), isVector=is_vector)
        lps = LPS_TO_RAS @ np.asarray(self.affine)
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        text = str(self.meta.get(LABEL_NAMES, ""))
        if label_names.from_text(text):
            image.SetMetaData(label_names.KEY, text)
        sitk.WriteImage(image, str(filename), useCompression=True)
