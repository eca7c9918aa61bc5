"""Episodes are drawn by the rule, counted by hand, and go on where they stopped."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from amsam_cli.bench.episodes import (
    EpisodeResult,
    Protocol,
    draw_episodes,
    episode_table,
    run_episodes,
)
from amsam_cli.bench.voc import IGNORED
from amsam_cli.errors import InputError


@dataclass
class Invented:
    """A data set without files: class 1 is the left half, class 2 the upper quarter of every picture."""

    name: str = "invented"
    members: dict = field(default_factory=lambda: {1: list("abcdef"), 2: list("ghij"), 9: ["z"]})

    def classes(self, fold):
        return {1: "left", 2: "top", 9: "rare"}

    def picture(self, name):
        return np.full((8, 8, 3), ord(name), dtype=np.uint8)

    def mask(self, name, number):
        mask = np.zeros((8, 8), dtype=np.uint8)
        mask[(slice(None), slice(0, 4)) if number == 1 else (slice(0, 2), slice(None))] = 1
        return mask


@dataclass
class LeftHalf:
    """Says the left half, whatever it is shown."""

    name: str = "left"
    version: str = "1"
    settings: dict = field(default_factory=dict)
    lessons: list = field(default_factory=list)

    def fit(self, shots, *, seed, on_step=None):
        self.lessons.append([shot.origin for shot in shots])
        return self

    def segment(self, query):
        data = np.zeros(query.volume.geometry.shape, dtype=np.uint16)
        data[:, :, :4] = 1
        return replace(query.truth, data=data)


def test_episodes_never_ask_for_a_picture_they_show():
    episodes = draw_episodes(Invented(), Protocol(fold=0, shots=3, episodes=200))

    assert all(episode.query not in episode.supports for episode in episodes)
    assert all(len(set(episode.supports)) == 3 for episode in episodes)
    assert {episode.number for episode in episodes} == {1, 2}  # class 9 has one picture only


def test_fewer_episodes_are_the_first_of_more():
    few, many = (draw_episodes(Invented(), Protocol(0, 1, episodes=count)) for count in (5, 50))

    assert many[:5] == few


def test_seeds_and_folds_draw_other_episodes():
    first, *others = (draw_episodes(Invented(), p) for p in (Protocol(0), Protocol(0, seed=1), Protocol(1)))

    assert all(other != first for other in others)


def test_fold_without_pictures_is_refused():
    with pytest.raises(InputError, match="No class of fold 0 has 7 pictures"):
        draw_episodes(Invented(), Protocol(0, shots=6))


def test_miou_and_fb_iou_are_those_counted_by_hand(tmp_path):
    result = run_episodes(Invented(), LeftHalf(), Protocol(0, 1, 40), tmp_path)

    # Class 1: 32 of 32 pixels. Class 2: left half against the top quarter, 8 shared of 40.
    tops = sum(episode.number == 2 for episode in draw_episodes(Invented(), Protocol(0, 1, 40)))
    lefts = 40 - tops
    foreground = (32 * lefts + 8 * tops) / (32 * lefts + 40 * tops)
    background = (32 * lefts + 24 * tops) / (32 * lefts + 56 * tops)
    assert result.miou == pytest.approx((1 + 8 / 40) / 2)
    assert result.fb_iou == pytest.approx((foreground + background) / 2)


def test_ignored_pixels_count_for_nothing():
    blank = EpisodeResult("invented", Protocol(0), "left", "1", {})
    truth = np.array([[1, 0, IGNORED, IGNORED]], dtype=np.uint8)

    result = blank.counted(1, np.array([[True, True, True, False]]), truth)

    assert result.counts == {1: (1, 2)}
    assert result.background == (0, 1)


def test_run_goes_on_where_it_stopped(tmp_path):
    method = LeftHalf()
    run_episodes(Invented(), method, Protocol(0, 1, 40), tmp_path)
    path = next(tmp_path.rglob("*.json"))
    whole = EpisodeResult.read(path)
    stopped = LeftHalf()

    def stop(stage, done, total):
        if done == 30:
            raise KeyboardInterrupt

    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        run_episodes(Invented(), stopped, Protocol(0, 1, 40), tmp_path, on_step=stop)

    again = run_episodes(Invented(), stopped, Protocol(0, 1, 40), tmp_path)

    assert len(stopped.lessons) == 30 + 20  # 20 were written when it stopped
    assert (again.counts, again.background, again.done) == (whole.counts, whole.background, 40)


def test_finished_run_is_not_repeated(tmp_path):
    method = LeftHalf()

    for _ in range(2):
        run_episodes(Invented(), method, Protocol(0, 2, 20), tmp_path)

    assert len(method.lessons) == 20
    assert all(len(lesson) == 2 for lesson in method.lessons)


def test_run_with_other_settings_starts_anew(tmp_path):
    run_episodes(Invented(), LeftHalf(), Protocol(0, 1, 20), tmp_path)
    changed = LeftHalf(settings={"half": "right"})

    run_episodes(Invented(), changed, Protocol(0, 1, 20), tmp_path)

    assert len(changed.lessons) == 20


def test_table_has_the_folds_and_their_mean():
    results = [
        EpisodeResult("invented", Protocol(fold), "left", "1", {}, 10, {1: (inside, 100)}, (100, 100))
        for fold, inside in ((0, 40), (1, 60))
    ]

    assert episode_table(results).splitlines()[-1] == "| left 1 | 1 | 40.0 | 60.0 | 50.0 | 75.0 | 20 |"
