from __future__ import annotations

from tests.cli.conftest import assert_two_lines


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
