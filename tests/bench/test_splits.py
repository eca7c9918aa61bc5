"""Draws are fair, repeatable, and never put a patient on both sides."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amsam_cli.bench.splits import SEEDS, SETS, DataSet, draw_splits, load_splits, write_splits
from amsam_cli.errors import InputError
from tests.bench.conftest import SET

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def patient_of(dataset: DataSet, name: str) -> str:
    found = re.search(dataset.group, name) if dataset.group else None
    return found.group(0) if found else name.partition(":")[0]


def test_draw_is_the_same_every_time(data, splits):
    again = draw_splits(data, [SET], seeds=(0, 1))

    assert again == list(splits.values())


def test_draw_differs_between_seeds(splits):
    first, second = splits["toy"].splits

    assert first.supports != second.supports


def test_draw_takes_two_slices_of_each_of_four_patients(splits):
    supports = splits["toy"].splits[0].supports

    patients = [patient_of(SET, origin) for origin in supports]

    assert patients == [name for name in dict.fromkeys(patients) for _ in range(2)]
    assert len(set(supports)) == 8


def test_draw_takes_both_slices_from_one_scan(splits):
    supports = splits["toy"].splits[0].supports

    assert [origin.partition(":")[0] for origin in supports[::2]] == [each.partition(":")[0] for each in supports[1::2]]


def test_first_slice_shows_every_label(splits):
    firsts = [split.supports[0] for split in splits["toy"].splits]

    assert [first.rpartition(":")[2] for first in firsts] == ["2", "2"]


def test_draw_asks_six_other_patients_for_one_scan_each(splits):
    split = splits["toy"].splits[0]

    supporting = {patient_of(SET, origin) for origin in split.supports}
    asked = [patient_of(SET, name) for name in split.queries]

    assert len(asked) == len(set(asked)) == 6
    assert supporting.isdisjoint(asked)


def test_small_set_has_fewer_shots_and_four_queries(save_set):
    drawn = draw_splits(save_set(6), [SET], seeds=(0,))[0]

    assert drawn.shots == (1, 2, 4)
    assert len(drawn.splits[0].queries) == 4


def test_draw_is_refused_when_patients_are_too_few(save_set):
    folder = save_set(4)

    with pytest.raises(InputError, match="scans of 4 patients; expected at least 5"):
        draw_splits(folder, [SET])


def test_pictures_give_one_slice_each(tmp_path):
    for part, value in (("images", 200), ("labels", 1)):
        (tmp_path / "pictures" / part).mkdir(parents=True)
        for number in range(14):
            pixels = np.zeros((8, 8), np.uint8)
            pixels[2:5, 2:5] = value
            Image.fromarray(pixels).save(tmp_path / "pictures" / part / f"{number}.png")

    split = draw_splits(tmp_path, [DataSet("pictures", {1: "square"})], seeds=(0,))[0].splits[0]

    assert len({*split.supports, *split.queries}) == 14


def test_only_scans_that_fit_the_expression_are_drawn(data):
    drawn = draw_splits(data, [replace(SET, only="_frame2")], seeds=(0,))[0].splits[0]

    assert all("_frame2" in name for name in (*drawn.supports, *drawn.queries))


def test_splits_come_back_as_written(tmp_path, splits):
    write_splits(list(splits.values()), tmp_path / "splits.json")

    assert load_splits(tmp_path / "splits.json") == splits


def test_splits_of_another_format_are_refused(tmp_path):
    (tmp_path / "splits.json").write_text('{"format": 99, "sets": []}')

    with pytest.raises(InputError, match="no splits file of format 1"):
        load_splits(tmp_path / "splits.json")


@pytest.mark.parametrize("dataset", load_splits().values(), ids=lambda dataset: dataset.name)
def test_committed_splits_never_have_a_patient_on_both_sides(dataset):
    for split in dataset.splits:
        supporting = {patient_of(dataset, origin) for origin in split.supports}

        assert supporting.isdisjoint(patient_of(dataset, name) for name in split.queries)


def test_committed_splits_are_of_the_declared_sets():
    committed = load_splits()

    bare = tuple(replace(each, plane=None, splits=()) for each in committed.values())

    assert bare == SETS
    assert all(tuple(split.seed for split in each.splits) == SEEDS for each in committed.values())


@pytest.mark.real
@pytest.mark.parametrize("dataset", SETS, ids=lambda dataset: dataset.name)
def test_committed_splits_are_drawn_again_from_the_data(dataset):
    if not (REAL / dataset.name).is_dir():
        pytest.skip("../shared/data is not here")

    assert draw_splits(REAL, [dataset]) == [load_splits()[dataset.name]]
