"""Results become a table that can be checked by hand."""

from __future__ import annotations

from amsam_cli.bench.ranking import table
from amsam_cli.bench.record import CaseResult, Result


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


def test_table_shows_distances_with_their_unit():
    cells = rows(table([result("unet", [0.5, 0.5])]), "HD95")[2]

    assert cells[3] == "5.00 mm [5.00, 5.00]"


def test_table_shows_seconds():
    cells = rows(table([result("unet", [0.5])]), "Seconds")[2]

    assert cells[3] == "30 + 2.0"


def test_cell_says_that_seeds_are_missing():
    found = [result("amsam", [0.5]), result("amsam", [0.5], seed=1), result("unet", [0.5])]

    cells = rows(table(found), "Dice")[2]

    assert cells[2:] == ["2", "0.500 [0.500, 0.500]", "0.500 (1 of 2 seeds)"]
