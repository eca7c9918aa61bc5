"""A benchmark run: every task once, resumed where it stopped, each result as measured."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from amsam_cli.bench import fewshot
from amsam_cli.bench.base import Query
from amsam_cli.bench.claims import claimed
from amsam_cli.bench.fewshot import AVAILABLE_METHODS, Selection, read_results, run_fewshot
from amsam_cli.bench.record import BEYOND, Result
from amsam_cli.errors import InputError, ResourceError
from amsam_cli.volume import LabelMap, Shot


@dataclass
class Oracle:
    """Says the truth, but misses what is dim; remembers what it learned from."""

    name: str = "oracle"
    version: str = "1"
    settings: Mapping[str, str] = field(default_factory=lambda: {"threshold": "none"})
    fits: list[tuple[str, ...]] = field(default_factory=list)

    def fit(self, shots: Sequence[Shot], *, seed: int, on_step=None) -> Oracle:
        self.fits.append(tuple(shot.origin for shot in shots))
        return self

    def segment(self, query: Query) -> LabelMap:
        return replace(query.truth, data=np.where(query.truth.data == 1, 1, 0).astype(np.uint16))


@pytest.fixture
def oracle():
    return Oracle()


@pytest.fixture
def selection(oracle):
    return Selection(sets=["toy"], shots=(1, 4), seeds=(0,), methods=[oracle], device="cpu")


def test_run_measures_every_query(data, splits, selection, tmp_path):
    result = run_fewshot(data, tmp_path / "out", selection, splits=splits)[0]

    assert [found.case for found in result.cases] == list(splits["toy"].splits[0].queries)
    assert {found.scores["bright"]["dice"] for found in result.cases} == {1.0}
    assert {found.scores["dim"]["dice"] for found in result.cases} == {0.0}
    assert {found.scores["bright"][BEYOND] for found in result.cases} == {0.0}
    assert result.unit == "mm"


def test_run_gives_the_first_slices_of_the_draw(data, splits, selection, oracle, tmp_path):
    run_fewshot(data, tmp_path / "out", selection, splits=splits)

    supports = splits["toy"].splits[0].supports
    assert oracle.fits == [supports[:1], supports[:4]]


def test_run_skips_what_is_there(data, splits, selection, oracle, tmp_path):
    first = run_fewshot(data, tmp_path / "out", selection, splits=splits)

    second = run_fewshot(data, tmp_path / "out", selection, splits=splits)

    assert len(oracle.fits) == 2
    assert [each.cases for each in second] == [each.cases for each in first]


def test_run_leaves_to_another_process_what_that_is_at(data, splits, selection, oracle, tmp_path, caplog):
    first, second = run_fewshot(data, tmp_path / "there", selection, splits=splits)

    with claimed(tmp_path / "out" / first.place) as is_ours:
        found = run_fewshot(data, tmp_path / "out", selection, splits=splits)

    assert is_ours
    assert [each.place for each in found] == [second.place]
    assert "run by another process" in caplog.text


def test_claim_ends_with_its_block_and_leaves_nothing(tmp_path):
    place = tmp_path / "set" / "result.json"

    with claimed(place) as first, claimed(place) as second:
        pass
    with claimed(place) as third:
        pass

    assert (first, second, third) == (True, False, True)
    assert not list(place.parent.iterdir())


def test_result_says_whose_each_scan_is(data, splits, selection, tmp_path):
    result = run_fewshot(data, tmp_path / "out", selection, splits=splits)[0]

    assert [found.patient for found in result.cases] == [found.case.partition("_frame")[0] for found in result.cases]


def test_run_is_repeated_when_settings_changed(data, splits, selection, oracle, tmp_path):
    run_fewshot(data, tmp_path / "out", selection, splits=splits)
    oracle.settings = {"threshold": "0.5"}

    run_fewshot(data, tmp_path / "out", selection, splits=splits)

    assert len(oracle.fits) == 4


def test_results_of_two_versions_stand_side_by_side(data, splits, selection, oracle, tmp_path):
    run_fewshot(data, tmp_path / "out", selection, splits=splits)
    oracle.version = "2"
    run_fewshot(data, tmp_path / "out", selection, splits=splits)

    assert [(each.shots, each.version) for each in read_results(tmp_path / "out")] == [
        (1, "1"),
        (1, "2"),
        (4, "1"),
        (4, "2"),
    ]


def test_result_comes_back_as_written(data, splits, selection, tmp_path):
    result = run_fewshot(data, tmp_path / "out", selection, splits=splits)[0]

    assert Result.read(tmp_path / "out" / result.place) == result


def test_shots_that_a_set_lacks_are_left_out_with_a_warning(data, splits, selection, tmp_path, caplog):
    results = run_fewshot(data, tmp_path / "out", replace(selection, shots=(1, 16)), splits=splits)

    assert [result.shots for result in results] == [1]
    assert "has no draw of 16 shots" in caplog.text


def test_progress_counts_tasks(data, splits, selection, tmp_path):
    seen = []

    run_fewshot(data, tmp_path / "out", selection, splits=splits, on_step=lambda *step: seen.append(step))

    assert seen == [("bench", 0, 2), ("bench", 1, 2), ("bench", 2, 2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sets": ["moon"]}, "no splits for a set 'moon'"),
        ({"seeds": (7,)}, "'toy' has no draw of seed 7"),
        ({"methods": ("magic",)}, "no method 'magic'"),
    ],
    ids=["set", "seed", "method"],
)
def test_unknown_choice_is_refused(data, splits, selection, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        run_fewshot(data, tmp_path / "out", replace(selection, **change), splits=splits)


def test_folder_without_a_known_set_is_refused(tmp_path, selection, splits):
    with pytest.raises(InputError, match="holds no known set"):
        run_fewshot(tmp_path / "nothing", tmp_path / "out", replace(selection, sets=()), splits=splits)


def test_damaged_result_is_refused(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "1-shot.json").write_text('{"set": "toy"}')

    with pytest.raises(InputError, match="is no result of the benchmark"):
        read_results(tmp_path)


def test_every_available_method_says_what_it_is():
    assert all(len(text) > 10 for text in AVAILABLE_METHODS.values())


def test_result_keeps_what_a_method_says_of_itself(data, splits, selection, oracle, tmp_path):
    oracle.notes = ("under-trained",)

    result = run_fewshot(data, tmp_path / "out", selection, splits=splits)[0]

    assert not result.is_fair
    assert Result.read(tmp_path / "out" / result.place).notes == ("under-trained",)


def test_result_keeps_what_was_expected_of_each_mask(data, splits, selection, oracle, tmp_path):
    def expecting(query):
        return oracle.segment(query), {"bright": 0.75}

    oracle.segment_and_expect = expecting

    result = run_fewshot(data, tmp_path / "out", selection, splits=splits)[0]

    assert [case.expected for case in result.cases] == [{"bright": 0.75}] * len(result.cases)
    assert read_results(tmp_path / "out")[0].cases == result.cases


def test_methods_are_loaded_with_the_model_asked_for(data, splits, selection, oracle, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(fewshot, "load_method", lambda name, device, model: asked.append((name, model)) or oracle)

    run_fewshot(data, tmp_path, replace(selection, methods=["amsam"], model="sam2.1-tiny"), splits=splits)

    assert asked == [("amsam", "sam2.1-tiny")]


def test_result_says_what_it_ran_on_without_a_name(data, splits, selection, tmp_path):
    machine = run_fewshot(data, tmp_path / "out", selection, splits=splits)[0].machine

    assert "processor core" in machine
    assert platform.node() not in machine


def test_method_that_fails_on_one_draw_does_not_stop_the_others(data, splits, selection, oracle, tmp_path, caplog):
    class Failing(Oracle):
        def fit(self, shots, *, seed, on_step=None):
            raise ResourceError("No memory is left.", "Close something.")

    both = replace(selection, shots=(1,), methods=[Failing("weak"), oracle])

    results = run_fewshot(data, tmp_path / "out", both, splits=splits)

    assert [result.method for result in results] == ["oracle"]
    assert "weak_1.json failed and is left out: No memory is left." in caplog.text
