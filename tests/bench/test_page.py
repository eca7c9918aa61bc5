"""Results reach a page between its markers, with their origin, and a plot."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from amsam_cli.bench.page import fill, fragment, markers, newest, write_plot
from amsam_cli.bench.splits import load_splits
from amsam_cli.errors import InputError
from tests.bench.test_ranking import result

BEGIN, END = markers()
DATED = replace(
    result("unet", [0.5, 0.7]), date="2026-11-24T10:00:00+00:00", machine="2 processor cores (x86_64), no GPU"
)


def test_newest_version_of_each_method_is_shown():
    old = replace(result("amsam", [0.5]), version="0.1-aa", date="2026-11-20T10:00:00+00:00")
    new = replace(result("amsam", [0.6]), version="0.1-bb", date="2026-11-24T10:00:00+00:00")

    assert newest([new, old, DATED]) == [new, DATED]


def test_steps_of_an_arm_are_of_one_version():
    few, more = (replace(DATED, method=f"arm@{steps}", version="1") for steps in (15, 30))
    later = replace(DATED, method="arm@30", version="2", date="2031-01-01")
    plain = replace(DATED, method="arm", version="1")

    assert newest([few, more, later, plain]) == [later, plain]


def test_fragment_says_when_on_what_and_by_which_command():
    text = fragment([DATED, replace(DATED, method="forest", seed=1)], folder="results")

    assert "Measured on 2026-11-24 on 2 processor cores (x86_64), no GPU by" in text
    assert "amsam bench fewshot DATA -o results --method unet --method forest -k 4 --seed 0 --seed 1" in text
    assert "--seed 1 --set toy\n" in text
    assert "| toy | 4 |" in text


def test_fragment_names_no_sets_where_all_that_have_draws_are_there():
    every = [replace(DATED, set=name) for name in load_splits()]

    assert "--set" not in fragment(every, folder="results")
    assert "--set" in fragment(every[1:], folder="results")


def test_fill_replaces_what_stood_between_the_markers(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"# Title\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n")

    fill(page, "new")
    fill(page, "newer")

    assert page.read_text() == f"# Title\n\n{BEGIN}\n\nnewer\n\n{END}\n\nafter\n"


def test_each_table_of_a_page_has_markers_of_its_own(tmp_path):
    page = tmp_path / "README.md"
    begin, end = markers("memory")
    page.write_text(f"{BEGIN}\none\n{END}\n{begin}\nother\n{end}\n")

    fill(page, "new", "memory")

    assert page.read_text() == f"{BEGIN}\none\n{END}\n{begin}\n\nnew\n\n{end}\n"


def test_page_without_markers_is_refused_and_left_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"{END} {BEGIN}")

    with pytest.raises(InputError, match="lacks the lines"):
        fill(page, "new")

    assert page.read_text() == f"{END} {BEGIN}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_plot_is_a_picture_with_a_panel_for_each_set(tmp_path):
    pytest.importorskip("matplotlib")
    one = [result("unet", [0.5, 0.6], shots=shots) for shots in (1, 4)]

    write_plot(one, tmp_path / "one.png")
    write_plot([*one, *(replace(each, set="other") for each in one)], tmp_path / "two.png")

    with Image.open(tmp_path / "one.png") as first, Image.open(tmp_path / "two.png") as second:
        assert first.format == "PNG"
        assert second.width == 2 * first.width


def test_plot_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="no results"):
        write_plot([], tmp_path / "a.png")
