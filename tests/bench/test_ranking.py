"""Results become a table that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from amsam_cli.bench.ranking import beside_grid, dice_grid, rank, table
from amsam_cli.bench.record import BEYOND, UNDER_TRAINED, CaseResult, Result


def result(method: str, dice: list[float], *, seed: int = 0, shots: int = 4) -> Result:
    cases = tuple(
        CaseResult(f"case_{number}", 2.0, {"disc": {"dice": value, "hd95_mm": 10 * (1 - value), "nsd": value}})
        for number, value in enumerate(dice)
    )
    return Result("toy", shots, seed, method, "1", {}, (), (), fit_s=30.0, cases=cases)


def rows(text: str, title: str) -> list[list[str]]:
    """Return the cells of the part that begins with `title`, the header and its rule first."""
    block = text[text.index(f"**{title}") :].split("\n\n")[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]


def test_table_has_a_row_for_each_shot_count_and_a_column_for_each_method():
    header, _, *body = rows(
        table([result("unet", [1.0]), result("amsam", [1.0]), result("unet", [1], shots=1)]), "Dice"
    )

    assert header == ["Set", "Shots", "Scans", "amsam 1", "unet 1"]
    assert body == [["toy", "1", "1", "–", "1.000"], ["toy", "4", "1", "1.000", "1.000"]]


def test_table_shows_mean_and_interval():
    cells = rows(table([result("unet", [0.5, 0.5, 0.5])]), "Dice")[2]

    assert cells[3] == "0.500 [0.500, 0.500]"


def test_table_shows_the_mean_of_all_sets_where_a_method_has_run_on_all():
    easy, hard = [replace(result("unet", [dice, dice]), set=name) for name, dice in (("easy", 0.9), ("hard", 0.2))]
    only_easy = replace(result("forest", [0.7, 0.8]), set="easy")

    last = dice_grid([easy, hard, only_easy]).splitlines()[-1]

    assert last == "| **mean of 2 sets** | 4 | 4 | 0.550 | – |"
    assert "mean of" not in dice_grid([easy])
    assert "mean of" not in dice_grid([only_easy, hard])


def test_mean_of_all_sets_says_where_a_method_ran_less_or_was_starved():
    sets = ("easy", "hard")
    ours = [replace(result("amsam", [0.5], seed=seed), set=name) for name in sets for seed in (0, 1)]
    theirs = [replace(result("unet", [0.4]), set=name) for name in sets]
    starved = replace(theirs[0], notes=(UNDER_TRAINED,))

    last = dice_grid([*ours, starved, theirs[1]]).splitlines()[-1]

    assert last.endswith("| 0.500 | 0.400 (2 of 4 runs, under-trained) |")


def test_what_stands_beside_dice_is_the_mean_of_all_sets():
    easy, hard = [replace(result("unet", [nsd, nsd]), set=name) for name, nsd in (("easy", 0.9), ("hard", 0.2))]
    only_easy = replace(result("forest", [0.7]), set="easy")

    header, _, *body = rows(beside_grid([easy, hard, only_easy]), "Beside")

    assert header[2:] == ["unet 1", "forest 1"]
    assert [row[1:] for row in body] == [["4", "0.550", "–"], ["4", "30.0", "–"], ["4", "2.0", "–"]]
    assert beside_grid([hard, only_easy]) == ""


def test_slices_beyond_are_shown_where_every_result_counted_them():
    counted = result("amsam", [0.5, 0.5])
    for found, count in zip(counted.cases, (1.0, 2.0), strict=True):
        found.scores["disc"][BEYOND] = count

    body = rows(beside_grid([counted, result("unet", [0.5])]), "Beside")[2:]

    assert next(row for row in body if row[0].startswith("slices beyond"))[2:] == ["1.50", "–"]
    assert "slices beyond" not in beside_grid([result("unet", [0.5])])


def test_table_shows_distances_with_their_unit():
    cells = rows(table([result("unet", [0.5, 0.5])]), "HD95")[2]

    assert cells[3] == "5.00 mm [5.00, 5.00]"


def test_table_shows_seconds():
    cells = rows(table([result("unet", [0.5])]), "Seconds")[2]

    assert cells[3] == "30 + 2.0"


def test_table_prefers_seconds_of_the_processor_but_on_a_gpu():
    shared = replace(result("unet", [0.5]), fit_cpu_s=12.0)

    assert rows(table([shared]), "Seconds")[2][3] == "12 + 2.0"
    assert rows(table([replace(shared, device="cuda")]), "Seconds")[2][3] == "30 + 2.0"


def test_cell_says_that_seeds_are_missing():
    found = [result("amsam", [0.5]), result("amsam", [0.5], seed=1), result("unet", [0.5])]

    cells = rows(table(found), "Dice")[2]

    assert cells[2:] == ["2", "0.500", "0.500 (1 of 2 seeds)"]  # of one patient, so without intervals


def test_under_trained_cell_says_so_and_fights_no_duel():
    weak = replace(result("nnunet", [0.9, 0.9]), notes=(UNDER_TRAINED,))

    text = table([result("unet", [0.5, 0.5]), result("forest", [0.4, 0.4]), weak])

    assert "0.900 [0.900, 0.900] (under-trained)" in text
    assert {duel.second[0] for duel in rank([result("unet", [0.5]), result("forest", [0.4]), weak])} == {"forest"}


def test_duels_are_of_the_best_against_every_other():
    dice = {"amsam": [0.5] * 6, "unet": [0.6, 0.7, 0.8, 0.9, 0.75, 0.65], "forest": [0.4] * 6}

    duels = rank([result(method, values) for method, values in dice.items()])

    assert [(duel.first[0], duel.second[0]) for duel in duels] == [("unet", "amsam"), ("unet", "forest")]
    assert duels[0].outcome.p_value == pytest.approx(2 / 2**6)
    assert [duel.p_holm for duel in duels] == [pytest.approx(4 / 2**6)] * 2
    assert duels[0].outcome.effect == 1.0


def test_duel_counts_only_scans_that_both_segmented():
    found = [result("unet", [0.9] * 3), result("unet", [0.1] * 3, seed=1), result("amsam", [0.5] * 3)]

    (duel,) = rank(found)

    assert (duel.first[0], duel.outcome.n) == ("unet", 3)


def test_method_is_not_best_for_having_run_on_easy_scans_alone():
    many = [result("unet", [0.9, 0.5, 0.5]), result("amsam", [0.3, 0.4, 0.4])]

    duels = rank([*many, result("forest", [0.8])])

    assert {(duel.first[0], duel.second[0]): duel.outcome.n for duel in duels} == {
        ("unet", "amsam"): 3,
        ("unet", "forest"): 1,
    }


def test_method_that_leads_on_what_both_have_run_is_best_though_the_other_has_run_on_more():
    found = [result("amsam", [0.6, 0.6]), result("unet", [0.5, 0.5]), result("unet", [0.9, 0.9], seed=1)]

    (duel,) = rank(found)

    assert (duel.first[0], duel.outcome.n) == ("amsam", 2)
    assert duel.outcome.difference == pytest.approx(0.1)


def test_scan_asked_for_by_two_seeds_counts_once():
    found = [
        result(method, [dice] * 3, seed=seed) for method, dice in (("unet", 0.9), ("amsam", 0.5)) for seed in (0, 1)
    ]

    (duel,) = rank(found)

    assert duel.outcome.n == 3


def test_intervals_and_duels_draw_patients_not_scans():
    found = [result("unet", [0.0, 0.0, 1.0, 1.0]), result("amsam", [0.0] * 4)]
    whose = ("a", "a", "b", "b")
    found = [
        replace(each, cases=tuple(replace(case, patient=name) for case, name in zip(each.cases, whose, strict=True)))
        for each in found
    ]

    assert rows(table(found), "Dice")[2][4] == "0.500 [0.000, 1.000]"
    assert rank(found)[0].outcome.n == 2


def test_duels_are_fought_at_each_shot_count():
    found = [result(method, [0.5, 0.6], shots=shots) for method in ("unet", "amsam") for shots in (1, 4)]

    assert [duel.shots for duel in rank(found)] == [1, 4]


def test_table_lists_the_duels():
    cells = rows(table([result("unet", [0.9] * 3), result("amsam", [0.5] * 3)]), "The ranking")[2]

    assert cells == ["4", "unet 1", "amsam 1", "3", "+0.400 [+0.400, +0.400]", "0.250", "0.250", "+1.00"]


def test_one_method_alone_fights_nobody():
    assert rank([result("unet", [0.9])]) == []
