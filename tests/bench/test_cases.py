"""What a draw names is read with the labels that count, in the window that is asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from amsam_cli.bench.cases import Cases
from amsam_cli.errors import InputError


@pytest.fixture
def dataset(splits):
    return splits["toy"]


def test_shots_are_the_slices_by_name(data, dataset):
    origins = dataset.splits[0].supports[:3]

    shots = Cases(dataset, data / "toy").shots(origins)

    assert tuple(shot.origin for shot in shots) == origins
    assert shots[0].labels.values() == (1, 2)
    assert shots[0].labels.names == {1: "bright", 2: "dim"}
    assert shots[0].scan().depth == 5


def test_slice_without_label_is_refused(data, dataset):
    with pytest.raises(InputError, match=r"'p00_frame1.nii.gz:4', drawn in the splits, holds no label"):
        Cases(dataset, data / "toy").shots(["p00_frame1.nii.gz:4"])


def test_scan_that_is_not_there_is_refused(data, dataset):
    with pytest.raises(InputError, match=r"'p77_frame1.nii.gz', drawn in the splits, is not among the scans"):
        Cases(dataset, data / "toy").query("p77_frame1.nii.gz")


def test_labels_that_do_not_count_are_background(data, dataset):
    only_first = replace(dataset, labels={1: "bright"})

    assert Cases(only_first, data / "toy").query("p00_frame1.nii.gz").truth.values() == (1,)


def test_merged_labels_are_one(data, dataset):
    whole = Cases(dataset, data / "toy").query("p00_frame1.nii.gz").truth
    merged = replace(dataset, labels={1: "square"}, merged=True)

    found = Cases(merged, data / "toy").query("p00_frame1.nii.gz").truth

    np.testing.assert_array_equal(found.mask(1), whole.data > 0)


def test_window_is_the_same_for_a_scan_and_its_shots(data, dataset):
    there = Cases(replace(dataset, window=12), data / "toy")
    origin = dataset.splits[0].supports[0]

    shot, query = there.shots([origin])[0], there.query(origin.partition(":")[0])

    assert query.volume.geometry.shape == (5, 12, 12)
    assert shot.scan().geometry.matches(query.volume.geometry)
    index = int(origin.rpartition(":")[2])
    np.testing.assert_array_equal(shot.labels.data[0], query.truth.data[index])
    np.testing.assert_array_equal(shot.volume.data[:, 0], query.volume.data[:, index])
