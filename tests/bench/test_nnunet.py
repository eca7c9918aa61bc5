"""nnU-Net gets exactly the annotated slices, the rest ignored, and answers on the scan's grid."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("nnunetv2", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")  # the package's own

from amsam_cli.bench.base import Query  # noqa: E402
from amsam_cli.bench.nnunet import NnUNet, _Dataset  # noqa: E402
from tests.scans import ball_scan, ball_shot  # noqa: E402


@pytest.fixture
def two_of_one_scan():
    """Slices 3 and 4 of one scan, slice 4 of another."""
    return [ball_shot(0, index=3), ball_shot(0), ball_shot(1)]


@pytest.fixture
def written(two_of_one_scan, tmp_path):
    _Dataset.of(two_of_one_scan).write(tmp_path / "raw")
    return tmp_path / "raw"


def test_dataset_ignores_what_nobody_annotated(written):
    first = sitk.GetArrayFromImage(sitk.ReadImage(written / "labelsTr" / "scan_000.nii.gz"))
    second = sitk.GetArrayFromImage(sitk.ReadImage(written / "labelsTr" / "scan_001.nii.gz"))

    assert np.flatnonzero((first != 3).any(axis=(1, 2))).tolist() == [3, 4]
    assert np.flatnonzero((second != 3).any(axis=(1, 2))).tolist() == [4]
    np.testing.assert_array_equal(first[4], ball_scan(0)[1].data[4])


def test_dataset_holds_the_whole_scan_of_each_patient(written):
    image = sitk.ReadImage(written / "imagesTr" / "scan_001_0000.nii.gz")

    np.testing.assert_allclose(sitk.GetArrayFromImage(image), ball_scan(1)[0].data[0])
    assert image.GetSpacing() == (1.0, 1.0, 3.0)


def test_dataset_tells_nnunet_its_channels_and_labels(written):
    told = json.loads((written / "dataset.json").read_text())

    assert told["channel_names"] == {"0": "MRI"}
    assert told["labels"] == {"background": 0, "class_1": 1, "class_2": 2, "ignore": 3}
    assert told["numTraining"] == 2


def test_slices_are_farthest_apart_so_that_nnunet_cuts_them_as_we_do():
    shot = ball_shot(0)
    affine = shot.volume.geometry.affine @ np.diag([0.1, 1, 1, 1])
    volume = shot.scan()
    thin = replace(volume, geometry=replace(volume.geometry, affine=affine))

    dataset = _Dataset.of([replace(shot, scan=lambda: thin)])

    assert dataset.target_spacing is None
    assert dataset.channels_of(thin).shape == thin.data.shape


@pytest.mark.slow
def test_nnunet_learns_for_its_budget_and_answers_on_the_scans_grid(two_of_one_scan):
    volume, truth = ball_scan(5, depth=3)

    fitted = NnUNet(budget_s=1.0).fit(two_of_one_scan, seed=0)

    found = fitted.segment(Query(volume, truth))
    assert found.geometry.matches(truth.geometry)
    assert set(found.values()) <= set(truth.names)
    assert fitted.notes[0] == "under-trained"
