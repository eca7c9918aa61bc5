from __future__ import annotations

from amsam_cli.bench.promises import convergence_table, expectation_table, forecast_table
from amsam_cli.bench.record import CaseResult, Result


def result(method: str, dice: float, *, seed: int = 0, expected: float | None = None) -> Result:
    case = CaseResult("scan", 1.0, {"organ": {"dice": dice, "hd95_mm": 1.0, "nsd": 1.0}})
    forecast = {} if expected is None else {"organ": expected}
    return Result("set", 4, seed, method, "1", {}, ("a:1",), ("b",), cases=(case,), forecast=forecast)


def test_convergence_finds_the_fewest_steps_that_are_nearly_as_good():
    runs = [result(f"amsam-prompts@{steps}", dice) for steps, dice in ((15, 0.5), (30, 0.77), (60, 0.7), (120, 0.8))]

    table = convergence_table(runs)

    assert table.splitlines()[-1] == "| amsam-prompts | 1 | 0.500 | 0.770 | 0.700 | 0.800 | 30 |"


def test_convergence_compares_the_same_draws_only():
    runs = [result("amsam-lora@15", 0.4), result("amsam-lora@30", 0.8), result("amsam-lora@15", 0.9, seed=1)]

    assert convergence_table(runs).splitlines()[-1] == "| amsam-lora | 1 | 0.400 | 0.800 | 30 |"


def test_forecasts_stand_beside_the_truth():
    runs = [result("amsam", true, seed=s, expected=true - 0.1) for s, true in enumerate((0.5, 0.7, 0.9))]

    table = forecast_table([*runs, result("unet", 0.3)])

    assert "| set | 4 | 1 | amsam | organ | 0.600 | 0.700 |" in table
    assert "3 labels; the forecast is -0.100 off on the mean; Pearson's r 1.00, Spearman's rho 1.00." in table


def test_two_forecasts_are_not_correlated():
    assert "too few to correlate" in forecast_table([result("amsam", 0.5, expected=0.4)])


def test_what_was_expected_of_masks_stands_beside_the_truth():
    def run(seed: int, *, expected: float, dice: float | None) -> Result:
        case = CaseResult("scan", 1.0, {"organ": {"dice": dice}}, expected={"organ": expected})
        return Result("set", 4, seed, "amsam", "1", {}, ("a:1",), ("b",), cases=(case,))

    runs = [run(0, expected=0.5, dice=0.4), run(1, expected=0.7, dice=0.9), run(2, expected=0.3, dice=None)]

    lines = expectation_table(runs).splitlines()

    assert "| amsam | set | 4 | 3 | 0.500 | 0.433 | 0.200 | 1.00 |" in lines
    assert lines[-1].startswith("| amsam | all | – | 3 |")
