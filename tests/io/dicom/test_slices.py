from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from amsam_cli.errors import GeometryError, InputError
from amsam_cli.io import read_volume

Save = Callable[..., Path]


def test_multi_frame_image_is_stacked_by_position_and_rescaled_by_frame(save_enhanced: Save) -> None:
    volume = read_volume(save_enhanced([4.0, 0.0, 2.0]))

    assert volume.data[0, :, 0, 0].tolist() == [10 * 1 - 1, 10 * 2 - 2, 0]  # S up: frames 1, 2, 0
    assert volume.geometry.spacing == (2.0, 0.5, 0.25)


@pytest.mark.parametrize(
    ("heights", "said"),
    [([0, 2, 2], "frame 2 .* and frame 3 .* lie at one place"), ([0, 2, 6], r"4\.00 mm between frame 2 of 'enhanced")],
    ids=["double", "gap"],
)
def test_multi_frame_image_that_is_no_grid_is_refused_by_frame(
    save_enhanced: Save, heights: list[float], said: str
) -> None:
    with pytest.raises(GeometryError, match=said):
        read_volume(save_enhanced(heights))


def test_multi_frame_image_with_a_frame_undescribed_is_refused(save_enhanced: Save) -> None:
    path = save_enhanced([0, 2, 4])
    header = pydicom.dcmread(path)
    header.NumberOfFrames = 4
    header.save_as(path)

    with pytest.raises(InputError, match="says that it holds 4 frames, and describes 3"):
        read_volume(path)


@pytest.mark.parametrize(("signed", "expected"), [(0, [4095, 4094]), (1, [-1, -2])], ids=["unsigned", "signed"])
def test_monochrome1_is_bright_where_much_is(save_series: Save, signed: int, expected: list[int]) -> None:
    def change(number: int, header: pydicom.Dataset) -> None:
        header.PhotometricInterpretation, header.PixelRepresentation = "MONOCHROME1", signed
        header.RescaleSlope, header.RescaleIntercept = 1, 0

    volume = read_volume(save_series([(0, 0, 0)], change=change))

    assert volume.data[0, 0, 0, :2].tolist() == expected


def test_negative_values_stay_negative(save_series: Save) -> None:
    def change(number: int, header: pydicom.Dataset) -> None:
        header.PixelRepresentation, header.BitsStored, header.HighBit = 1, 16, 15
        header.PixelData = np.full((4, 5), -700, np.int16).tobytes()
        header.RescaleSlope, header.RescaleIntercept = 1, 24

    assert read_volume(save_series([(0, 0, 0)], change=change)).range == (-676, -676)


def test_slice_beside_the_stack_is_refused_by_name(save_series: Save) -> None:
    with pytest.raises(GeometryError, match=r"'001\.dcm' .* lies 9\.00 mm beside the line"):
        read_volume(save_series([(0, 0, 0), (9, 0, 2), (0, 0, 4)]))
