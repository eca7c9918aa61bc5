"""Masks lie on their scans, whatever the axes, and every program reads them at the same place."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from amsam_cli.io import read_labels, read_volume, write_labels
from amsam_cli.io.readers import LPS_TO_RAS, itk_geometry
from amsam_cli.volume import PLANES, LabelMap, Volume
from tests.io.dicom.conftest import oblique

ALL_48 = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]
SHAPE = (3, 4, 5)
SPACING = (0.7, 1.3, 4.0)
TILTS = {"straight": np.eye(3), "oblique": oblique(17, 0), "double-oblique": oblique(-25, 40)}


def affine_of(order: tuple[int, ...], flips: tuple[int, ...], tilt: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an affine whose file axis n runs along world axis order[n], turned, spaced unevenly, moved."""
    affine = np.eye(4)
    affine[:3, :3] = tilt @ (np.eye(3)[:, order] * flips * SPACING)
    affine[:3, 3] = (-31.5, 12.25, 80.0)
    return affine


def saved_scan(path: Path, affine: NDArray[np.float64]) -> Path:
    """Write a scan whose voxels are all different."""
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(SHAPE), affine), path)
    return path


def labels_like(volume: Volume) -> LabelMap:
    """Return a label map that holds each voxel's own value plus one."""
    return LabelMap(volume.data[0].astype(np.uint16) + 1, volume.geometry, {1: "first"})


def places(image: sitk.Image) -> dict[int, NDArray[np.float64]]:
    """Return value -> RAS position of every voxel, as SimpleITK sees them."""
    return {
        int(image.GetPixel(*index)): np.array([*image.TransformIndexToPhysicalPoint(index)]) * [-1, -1, 1]
        for index in product(*(range(size) for size in image.GetSize()))
    }


def off_mm(path: Path, affine: NDArray[np.float64]) -> float:
    """Return how far voxels of a mask lie from those of the scan they hold the number of, at most."""
    found = places(sitk.ReadImage(str(path)))
    wanted = {number + 1: affine[:3, :3] @ index + affine[:3, 3] for number, index in enumerate(np.ndindex(*SHAPE))}
    assert found.keys() == wanted.keys()
    return max(float(np.abs(found[value] - wanted[value]).max()) for value in wanted)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("tilt", TILTS.values(), ids=TILTS)
def test_masks_of_all_48_axes_lie_in_space_where_their_scans_do(
    tmp_path: Path, suffix: str, tilt: NDArray[np.float64]
) -> None:
    for number, (order, flips) in enumerate(ALL_48):
        affine = affine_of(order, flips, tilt)
        volume = read_volume(saved_scan(tmp_path / "scan.nii", affine), PLANES[number % 3])
        path = tmp_path / f"{number}{suffix}"

        write_labels(labels_like(volume), path, like=volume.source)

        assert off_mm(path, affine) < 1e-4
        back = read_labels(path, volume.geometry.plane)
        assert np.array_equal(back.data, labels_like(volume).data)
        assert back.geometry.matches(volume.geometry, tolerance_mm=1e-4)


@pytest.mark.parametrize("tilt", TILTS.values(), ids=TILTS)
def test_programs_agree_on_where_a_mask_lies(tmp_path: Path, tilt: NDArray[np.float64]) -> None:
    volume = read_volume(saved_scan(tmp_path / "scan.nii", affine_of((2, 0, 1), (1, -1, 1), tilt)))
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        write_labels(labels_like(volume), tmp_path / f"m{suffix}", like=volume.source)

    by_nibabel = nib.load(tmp_path / "m.nii.gz")
    by_itk = [itk_geometry(sitk.ReadImage(str(tmp_path / f"m{suffix}"))) for suffix in (".nii.gz", ".nrrd", ".mha")]

    assert all(np.abs(grid.affine - by_nibabel.affine).max() < 1e-4 for grid in by_itk)
    assert np.abs(by_nibabel.get_qform() - by_nibabel.get_sform()).max() < 1e-4
    assert np.array_equal(LPS_TO_RAS @ LPS_TO_RAS, np.eye(4))
