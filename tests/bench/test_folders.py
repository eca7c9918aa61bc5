"""Folders of pictures and masks become draws of the few-shot benchmark."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from amsam_cli.bench.fewshot import Selection, run_fewshot
from amsam_cli.bench.folders import draw_pictures, find_picture_sets
from amsam_cli.errors import InputError
from tests.bench.test_fewshot import Oracle


@pytest.fixture
def teeth(tmp_path):
    """Twelve pictures of a white square, its mask in `masks`, 255 inside."""
    for number in range(12):
        mask = np.zeros((16, 16), dtype=np.uint8)
        mask[4:10, 3 : 5 + number % 4] = 255
        for part, data in (("images", np.stack([mask] * 3, axis=-1) // 2), ("masks", mask)):
            (tmp_path / "teeth" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(data).save(tmp_path / "teeth" / part / f"{number:02d}.png")
    return tmp_path / "teeth"


def test_set_is_found_itself_or_inside(teeth):
    assert find_picture_sets(teeth) == find_picture_sets(teeth.parent) == [teeth]


def test_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(InputError, match="no folders 'images' and 'masks'"):
        find_picture_sets(tmp_path)


def test_draw_asks_every_shot_count_for_the_same_pictures(teeth):
    drawn = draw_pictures(teeth, shots=(2, 4), seeds=(0, 1))

    assert [len(split.supports) for split in drawn.splits] == [4, 4]
    assert all(len(split.queries) == 8 for split in drawn.splits)
    assert not set(drawn.splits[0].supports) & set(drawn.splits[0].queries)
    assert drawn.splits[0].supports != drawn.splits[1].supports


def test_draw_asks_for_as_many_pictures_as_wanted(teeth):
    assert len(draw_pictures(teeth, shots=(4,), queries=3).splits[0].queries) == 3


def test_draw_of_too_few_pictures_is_refused(teeth):
    with pytest.raises(InputError, match="holds 12 pictures"):
        draw_pictures(teeth, shots=(16,))


def test_pictures_run_through_the_fewshot_benchmark(teeth, tmp_path):
    drawn = draw_pictures(teeth, shots=(3, 4), seeds=(0,), queries=2)
    selection = Selection(["teeth"], (3, 4), (0,), [Oracle()], "cpu")

    results = run_fewshot(teeth.parent, tmp_path / "out", selection, splits={"teeth": drawn})

    assert [result.shots for result in results] == [3, 4]
    assert {found.scores["object"]["dice"] for result in results for found in result.cases} == {1.0}
