from __future__ import annotations

import numpy as np
import pytest
import torch

from amsam_cli.preprocess import Frames, Placement, Recipe, fit, intensity_limits, zoom_window
from amsam_cli.volume import Geometry, LabelMap, Shot, Volume, Window
from tests.scans import BALL, OTHER, ball_scan, ball_shot

GREY = Recipe("axial", None, (0.0, 100.0), 64, 1)


def picture(height: int, width: int, channels: int = 1) -> Volume:
    rng = np.random.default_rng(0)
    data = rng.uniform(0, 255, (channels, 1, height, width)).astype(np.float32)
    return Volume(data, Geometry.of_picture(height, width), (0.0, 255.0))


def test_fit_takes_percentiles_where_units_are_arbitrary():
    recipe = fit([ball_shot()], image_size=64, plane="axial")

    assert recipe.window is None
    assert recipe.image_size == 64
    assert recipe.channels == 1


def test_fit_takes_one_window_round_the_tissue_for_ct():
    volume, labels = ball_scan()
    air = Volume(volume.data - 1000, volume.geometry, (-1000.0, 0.0), volume.source)
    shot = ball_shot()
    ct = type(shot)(air.slice(4), labels.slice(4), lambda: air, shot.origin, shot.patient)

    recipe = fit([ct], image_size=64, plane="axial")

    assert recipe.window is not None
    low, high = recipe.window
    assert low < -750 < -500 < high  # the two balls lie near -750 and -500 HU
    assert high - low >= 300


def test_intensity_limits_of_a_flat_scan_do_not_collapse():
    flat = Volume(np.full((1, 1, 4, 4), 5, np.float32), Geometry.of_picture(4, 4), (0.0, 9.0))

    assert intensity_limits(flat, GREY) == (0.0, 9.0)


def test_frames_are_between_zero_and_one_with_three_channels():
    volume, _ = ball_scan()

    pixels = Frames(volume, GREY).pixels(2, 5)

    assert pixels.shape == (3, 3, 64, 64)
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_frames_of_a_slice_are_scaled_by_its_whole_scan():
    volume, _ = ball_scan()

    whole = Frames(volume, GREY).pixels(0, 1)
    alone = Frames(volume.slice(0), GREY, scan=volume).pixels(0, 1)

    torch.testing.assert_close(alone, whole)


def test_frames_make_colour_grey_when_the_recipe_is_grey():
    pixels = Frames(picture(20, 20, channels=3), GREY).pixels(0, 1)

    torch.testing.assert_close(pixels[:, 0], pixels[:, 2])


def test_placement_keeps_proportions_in_millimetres():
    affine = np.diag([1.0, 2.0, 1.0, 1.0])  # rows 2 mm apart, columns 1 mm

    placement = Placement.of(Geometry((1, 40, 40), affine), 64)

    assert (placement.frame_height, placement.frame_width) == (64, 32)
    assert placement.left == 16


@pytest.mark.parametrize(("height", "width"), [(48, 48), (30, 61), (200, 120)])
def test_placement_restore_brings_a_filled_slice_back(height: int, width: int):
    y, x = np.mgrid[0:height, 0:width]
    smooth = torch.from_numpy((np.sin(y / height * 3) + x / width).astype(np.float32))[None, None]
    placement = Placement.of(Geometry.of_picture(height, width), 64)

    back = placement.restore(placement.fill(smooth))

    inner = (..., slice(4, -4), slice(4, -4))
    assert (back[inner] - smooth[inner]).abs().max() < 0.03


def test_frames_masks_hold_the_share_of_each_label():
    volume, labels = ball_scan()

    masks = Frames(volume, GREY).masks(labels, [BALL, OTHER])

    assert masks.shape == (9, 2, 64, 64)
    share = masks[4, 0].mean() * 64 * 64 / (48 * 48)
    assert float(share) == pytest.approx(labels.mask(BALL)[4].mean() * (64 / 48) ** 2, rel=0.03)


def square_shot(at: int, side: int, *, whole: int = 400) -> Shot:
    """Return a slice of `whole` x `whole` voxels of 0.5 mm with one labelled square."""
    geometry = Geometry((1, whole, whole), np.diag([3.0, 0.5, 0.5, 1.0]))
    labels = np.zeros((1, whole, whole), np.uint16)
    labels[0, at : at + side, at : at + side] = 1
    volume = Volume(labels.astype(np.float32)[None], geometry, (0.0, 1.0))
    return Shot(volume, LabelMap(labels, geometry), lambda: volume, "a.nii.gz:0", "a")


def test_fit_zooms_to_half_as_much_again_as_the_largest_region():
    recipe = fit([square_shot(10, 100), square_shot(50, 80)], image_size=64, plane="axial")

    assert recipe.zoom == pytest.approx(1.5 * 100 * 0.5)


def test_fit_does_not_zoom_past_four_pixels_a_voxel():
    recipe = fit([square_shot(10, 4)], image_size=64, plane="axial")

    assert recipe.zoom == pytest.approx(64 / 4 * 0.5)


def test_fit_does_not_zoom_where_the_labels_fill_the_slice():
    assert fit([square_shot(20, 300)], image_size=64, plane="axial").zoom is None


@pytest.mark.parametrize(
    ("at", "side", "whole", "finer"), [(20, 300, 400, 256), (20, 160, 200, None), (10, 40, 400, None)]
)
def test_fit_looks_at_whole_slices_finer_where_these_have_more_to_show(
    at: int, side: int, whole: int, finer: int | None
):
    recipe = fit([square_shot(at, side, whole=whole)], image_size=128, plane="axial", finer=256)

    assert recipe.finer == finer
    assert recipe.closer.image_size == (finer or 128)


def test_fit_does_not_zoom_into_pictures():
    flat = picture(400, 400)
    labels = LabelMap(np.pad(np.ones((1, 40, 40), np.uint16), ((0, 0), (0, 360), (0, 360))), flat.geometry)

    assert fit([Shot(flat, labels, lambda: flat, "a.png", "a")], image_size=64, plane=None).zoom is None


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        pytest.param((40, 60), (45, 55), Window(30, 40, 40, 20), id="centred"),
        pytest.param((0, 4), (90, 100), Window(0, 80, 40, 20), id="at the border"),
        pytest.param((10, 70), (40, 60), Window(4, 32, 72, 36), id="larger than asked"),
    ],
)
def test_zoom_window_lies_round_the_region(rows, columns, expected):
    geometry = Geometry((2, 100, 100), np.diag([3.0, 1.0, 2.0, 1.0]))  # 40 mm: 40 rows, 20 columns
    region = np.zeros((100, 100), bool)
    region[slice(*rows), slice(*columns)] = True

    assert zoom_window(geometry, region, 40.0) == expected


def test_zoom_window_of_nothing_is_none():
    assert zoom_window(Geometry((1, 8, 8), np.eye(4)), np.zeros((8, 8), bool), 4.0) is None


def test_zoomed_frames_show_the_window_at_the_intensity_of_the_scan():
    volume, _ = ball_scan()
    window = Window(12, 12, 24, 24)

    zoomed = Frames(volume.crop(window), GREY, scan=volume).pixels(4, 5)

    whole = Frames(volume, GREY).pixels(4, 5)
    centre = zoomed.mean(), whole[..., 16:48, 16:48].mean()
    assert float(centre[0]) == pytest.approx(float(centre[1]), abs=0.01)
