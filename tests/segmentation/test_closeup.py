import pytest
import torch

from amsam_cli.methods.shape import Shape
from amsam_cli.segmentation.closeup import likeliest_middle

SIZE = 32


def _found(*squares: tuple[int, int, int, float], labels: int = 1) -> torch.Tensor:
    """Return logits (3, L, 32, 32): squares of 4 pixels (label, row, column, logit) on the middle slice."""
    logits = torch.full((3, labels, SIZE, SIZE), -2.0)
    for label, row, column, logit in squares:
        logits[1, label, row : row + 4, column : column + 4] = logit
    return logits


def _is_at(middle: tuple[float, float], row: float, column: float) -> bool:
    """Return whether a middle is within two pixels of a place in pixels."""
    return max(abs(middle[0] * SIZE - row), abs(middle[1] * SIZE - column)) <= 2


def test_what_is_sure_outweighs_what_is_large():
    half_believed = [(0, row, column, 0.5) for row in (0, 4, 8) for column in (0, 4, 8)]

    assert _is_at(likeliest_middle(_found(*half_believed, (0, 24, 24, 4.0)), 0.15, Shape()), 26, 26)


def test_the_shots_tell_which_of_two_alike_it_is():
    twins = _found((0, 2, 2, 3.0), (0, 26, 26, 3.0))

    assert _is_at(likeliest_middle(twins, 0.15, Shape(row=0.1, column=0.1, spread=0.1)), 4, 4)
    assert _is_at(likeliest_middle(twins, 0.15, Shape(row=0.9, column=0.9, spread=0.1)), 28, 28)


def test_far_from_the_shots_it_is_found_all_the_same():
    alone = _found((0, 2, 2, 3.0))

    assert _is_at(likeliest_middle(alone, 0.15, Shape(row=0.5, column=0.5, spread=0.1)), 4, 4)


def test_every_label_counts_alike_however_large():
    large = [(0, row, column, 3.0) for row in (0, 4) for column in (0, 4, 8)]
    small = [(1, 20, 20, 3.0), (2, 24, 24, 3.0)]

    assert _is_at(likeliest_middle(_found(*large, *small, labels=3), 0.3, Shape()), 24, 24)


@pytest.mark.parametrize("side", [1.0, 3.0])
def test_a_square_as_wide_as_the_frame_lies_anywhere(side: float):
    row, column = likeliest_middle(_found((0, 0, 0, 3.0)), side, Shape(row=0.5, column=0.5, spread=0.1))

    assert 0 < row < 1
    assert 0 < column < 1
