"""The stop-watch: turns, medians, ratios and memory, on works whose time is invented."""

from __future__ import annotations

import ctypes
from itertools import count

import numpy as np
import pytest

from amsam_cli.bench import speed
from amsam_cli.bench.speed import Timing, Work, speed_json, speed_table, time_works
from amsam_cli.bench.workloads import large_pair, learning_works, startup_works, works_of
from amsam_cli.errors import InputError
from amsam_cli.metrics import measure_labels


class Clock:
    """A clock that moves only when a work says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def work(self, name: str, group: str, *seconds: float, per: int = 1) -> Work:
        turn = count()

        def run() -> None:
            self.log.append(name)
            self.now += seconds[next(turn) % len(seconds)]

        return Work(name, group, lambda: run, per=per)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


def test_ratio_is_to_the_first_of_the_group(clock):
    works = [clock.work("a", "x", 2.0), clock.work("b", "x", 3.0), clock.work("c", "y", 5.0)]

    timings = time_works(works, repeats=1)

    assert [timing.ratio for timing in timings] == [1.0, 1.5, 1.0]


def test_seconds_are_the_median_and_the_least_of_the_repeats(clock):
    (timing,) = time_works([clock.work("a", "x", 9.0, 1.0, 2.0)], repeats=3)

    assert (timing.seconds, timing.fastest) == (2.0, 1.0)


def test_seconds_are_per_piece(clock):
    (timing,) = time_works([clock.work("a", "x", 6.0, per=3)], repeats=1)

    assert timing.seconds == 2.0


def test_works_of_a_group_take_turns(clock):
    time_works([clock.work("a", "x", 1.0), clock.work("b", "x", 1.0), clock.work("c", "y", 1.0)], repeats=2)

    assert clock.log == ["a", "b", "a", "b", "c", "c"]


def test_preparation_is_not_timed(clock):
    def prepare():
        clock.now += 100
        return lambda: None

    (timing,) = time_works([Work("a", "x", prepare)], repeats=1)

    assert timing.seconds == 0.0


@pytest.mark.skipif(not speed._RESET.exists(), reason="the system does not tell")
def test_peak_memory_is_that_of_the_work_alone():
    works = [
        Work("large", "x", lambda: lambda: np.ones(200 * 2**17).sum()),
        Work("small", "x", lambda: lambda: None),
    ]

    large, small = time_works(works, repeats=1)

    assert 150 < large.peak_memory_mib - small.peak_memory_mib < 250


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the allocator cannot give back")
def test_what_an_earlier_work_freed_is_not_counted():
    kept = []

    def run():
        blocks = [np.ones(10_000) for _ in range(2000)]
        kept.append(blocks[-1])  # the heap cannot shrink below it by itself

    works = [
        Work("before", "x", lambda: lambda: None),
        Work("many", "x", lambda: run),
        Work("after", "x", lambda: lambda: None),
    ]

    before, many, after = time_works(works, repeats=1)

    assert many.peak_memory_mib - before.peak_memory_mib > 100
    assert after.peak_memory_mib - before.peak_memory_mib < 50


def test_memory_of_another_process_is_not_claimed():
    (timing,) = time_works([Work("a", "x", lambda: lambda: None, own_process=True)], repeats=1)

    assert timing.peak_memory_mib is None


def test_progress_ends_complete(clock):
    seen = []

    time_works([clock.work("a", "x", 1.0)], repeats=2, on_step=lambda *step: seen.append(step))

    assert seen == [("a", 0, 2), ("a", 1, 2), ("speed", 2, 2)]


def test_table_names_what_each_row_is_compared_with():
    timings = [Timing("floor", "x", 0.1, 0.1, 1.0, None), Timing("ours", "x", 0.25, 0.2, 2.5, 812.4)]

    assert speed_table(timings)[1:] == [
        ["x", "floor", "0.1", "1.00", "–", ""],
        ["x", "ours", "0.25", "2.50", "812", "floor"],
    ]


def test_json_holds_every_row():
    content = speed_json([Timing("floor", "x", 0.1, 0.1, 1.0, None)], repeats=3)

    assert content["repeats"] == 3
    assert content["rows"][0]["name"] == "floor"


def test_startup_begins_with_an_empty_python():
    first, *others = startup_works()

    assert first.prepare()().returncode == 0
    assert {work.group for work in others} == {first.group}


def test_learning_fits_each_method_to_the_same_shots():
    class Recorder:
        name = "recorder"

        def fit(self, shots, *, seed, on_step=None):
            return shots

    (work,) = learning_works([Recorder()], ["one", "two"])

    assert work.name == "recorder learns from 2 slices"
    assert work.prepare()() == ["one", "two"]


def test_group_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="no group 'nothing'"):
        works_of(["nothing"])


def test_large_pair_holds_five_organs_that_nearly_agree():
    prediction, reference = large_pair((50, 52, 52))

    found = measure_labels(prediction, reference, spacing=(1, 1, 1))

    assert list(found) == [1, 2, 3, 4, 5]
    assert all(0.5 < agreement.values["dice"] < 1 for agreement in found.values())
