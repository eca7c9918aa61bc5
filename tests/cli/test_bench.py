from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amsam_cli.bench.page import markers
from amsam_cli.bench.speed import Work
from tests.bench.test_episodes import Invented, LeftHalf
from tests.bench.test_ranking import result
from tests.cli.conftest import assert_two_lines


@pytest.fixture
def figures_folder(tmp_path):
    """Three pictures with masks."""
    for part in ("images", "masks"):
        (tmp_path / "set" / part).mkdir(parents=True)
        for name in "abc":
            Image.fromarray(np.full((8, 8), 255, dtype=np.uint8)).save(tmp_path / "set" / part / f"{name}.png")
    return tmp_path / "set"


def test_bench_fewshot_passes_its_selection_on(amsam, monkeypatch, tmp_path):
    asked: list[object] = []
    monkeypatch.setattr("amsam_cli.bench.fewshot.run_fewshot", lambda *args, **kwargs: asked.extend(args) or [])

    ran = amsam("bench", "fewshot", "data", "-o", "out", "--set", "a", "--set", "b", "-k", 2, "--method", "unet")

    assert (ran.code, ran.out) == (0, "No results yet.\n")
    selection = asked[2]
    assert (selection.sets, selection.shots, selection.methods) == (["a", "b"], [2], ["unet"])


def test_bench_fewshot_refuses_a_set_without_splits(amsam):
    ran = amsam("bench", "fewshot", "data", "-o", "out", "--set", "nonsense")

    assert ran.code == 2
    assert_two_lines(ran.err)


def test_bench_methods_lists_every_method(amsam):
    ran = amsam("bench", "methods", "--json")

    assert {"amsam", "nnunet", "unet", "registration", "forest", "persam", "sam2-box"} <= ran.json["methods"].keys()


def test_bench_folder_draws_and_passes_its_selection_on(amsam, monkeypatch, figures_folder):
    asked: list[object] = []
    monkeypatch.setattr("amsam_cli.bench.fewshot.run_fewshot", lambda *args, **kwargs: asked.append(kwargs) or [])

    ran = amsam("bench", "folder", figures_folder, "-o", "out", "-k", 2, "--queries", 1, "--seed", 3)

    (split,) = asked[0]["splits"]["set"].splits
    assert ran.code == 0
    assert (split.seed, len(split.supports), len(split.queries)) == (3, 2, 1)


@pytest.mark.parametrize("protocol", ["pascal", "coco"])
def test_bench_protocols_refuse_a_folder_that_is_not_theirs(amsam, tmp_path, protocol, toy):
    ran = amsam("bench", protocol, tmp_path, "-o", "out")

    assert ran.code == 2
    assert_two_lines(ran.err)


def test_bench_pascal_runs_its_episodes(amsam, monkeypatch, tmp_path):
    monkeypatch.setattr("amsam_cli.bench.contenders.load_method", lambda name, device, model: LeftHalf())
    monkeypatch.setattr("amsam_cli.bench.voc.Pascal", lambda data: Invented())

    ran = amsam("bench", "pascal", tmp_path, "-o", "out", "--fold", 0, "-k", 1, "--episodes", 20, "--json")

    assert ran.json["results"][0]["episodes"] == 20
    assert 0 < ran.json["results"][0]["miou"] < 1


def test_bench_table_keeps_versions_apart(amsam, tmp_path):
    for version, date in (("0.2.0+aaaa-11111111", "2026-01-01"), ("0.2.0+aaaa-22222222", "2026-01-02")):
        replace(result("amsam", [0.5]), version=version, date=date).write(tmp_path)

    both, newest = (amsam("bench", "table", tmp_path, *more) for more in ((), ("--newest",)))

    assert "amsam 0.2.0+aaaa-11111111 | amsam 0.2.0+aaaa-22222222" in both.out
    assert "11111111" not in newest.out
    assert "22222222" in newest.out


def test_bench_table_shows_the_draws_asked_for(amsam, tmp_path):
    for seed, shots, dice in ((0, 1, 0.125), (0, 4, 0.25), (1, 4, 0.75)):
        result("unet", [dice], seed=seed, shots=shots).write(tmp_path)

    ran = amsam("bench", "table", tmp_path, "-k", 4, "--seed", 0)

    assert "0.250" in ran.out
    assert not any(text in ran.out for text in ("0.125", "0.500", "0.750"))


def test_bench_forecast_tells_of_the_newest_version(amsam, tmp_path):
    old, new = (replace(result("amsam", [0.5]), version=version, date=version) for version in ("1", "2"))
    replace(old, forecast={"disc": 0.11}).write(tmp_path)
    replace(new, forecast={"disc": 0.22}).write(tmp_path)

    ran = amsam("bench", "forecast", tmp_path)

    assert "0.220" in ran.out
    assert "0.110" not in ran.out


def test_bench_forecast_takes_the_shots_asked_for(amsam, tmp_path):
    for shots, expected in ((1, 0.11), (4, 0.22)):
        replace(result("amsam", [0.5], shots=shots), forecast={"disc": expected}).write(tmp_path)

    ran = amsam("bench", "forecast", tmp_path, "-k", 4)

    assert "0.220" in ran.out
    assert "0.110" not in ran.out


def test_bench_readme_fills_the_page(amsam, tmp_path):
    result("unet", [0.5, 0.75]).write(tmp_path / "results")
    page = tmp_path / "page.md"
    page.write_text("\n".join(markers("arms")))

    ran = amsam("bench", "readme", tmp_path / "results", page, "--name", "arms", "--set", "toy")

    assert ran.code == 0
    assert "0.625 [" in page.read_text()


@pytest.fixture
def nothing(monkeypatch):
    """Let there be nothing to time but one work that does nothing; return how often it was done."""
    done = []
    work = Work("nothing", "start-up", lambda: lambda: done.append(1))
    monkeypatch.setattr("amsam_cli.bench.workloads.works_of", lambda groups, device: [work])
    return done


def test_bench_speed_times_the_groups_asked_for(amsam, nothing):
    ran = amsam("bench", "speed", "--only", "start-up", "--repeats", 1, "-o", "speed.json")

    assert ran.code == 0
    assert "nothing" in ran.out
    assert "processor core" in Path("speed.json").read_text()


def test_bench_speed_fills_a_page(amsam, nothing, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("\n".join(markers("speed")))

    ran = amsam("bench", "speed", "--only", "start-up", "--repeats", 2, "--page", page)

    assert ran.code == 0
    assert "| nothing | " in page.read_text()
    assert "amsam bench speed --only start-up --repeats 2" in page.read_text()


def test_bench_speed_asks_for_the_markers_before_it_begins(amsam, nothing, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no markers")

    ran = amsam("bench", "speed", "--page", page)

    assert (ran.code, nothing) == (2, [])
    assert "lacks the lines" in ran.err
