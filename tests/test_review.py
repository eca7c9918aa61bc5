from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amsam_cli.review import (
    GAP_PX,
    PALETTE,
    PANEL_PX,
    PICTURE_PX,
    choose_slices,
    colours_of,
    picture_of_difference,
    write_preview,
)
from amsam_cli.volume import AxisOrder, Geometry, LabelMap, Source, Volume


def a_volume(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    data = np.zeros((1, *shape), dtype=np.float32)
    data[..., shape[2] // 2 :] = 100.0
    return Volume(data, Geometry(shape, np.diag([*spacing, 1.0])), (0.0, 100.0))


def labels_on(volume: Volume, slices: range, value: int = 1) -> LabelMap:
    data = np.zeros(volume.geometry.shape, dtype=np.uint16)
    data[slices.start : slices.stop, 2:6, 2:6] = value
    return LabelMap(data, volume.geometry, {value: f"[organ] {value}"})


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_choose_slices_spreads_over_the_labelled_slices():
    labels = labels_on(a_volume((40, 8, 8)), range(10, 21))

    assert choose_slices(labels, count=3) == [10, 15, 20]


def test_choose_slices_shows_every_labelled_slice_when_they_are_few():
    labels = labels_on(a_volume((40, 8, 8)), range(5, 8))

    assert choose_slices(labels) == [5, 6, 7]


def test_choose_slices_puts_a_key_slice_in_the_place_of_its_neighbour():
    labels = labels_on(a_volume((40, 8, 8)), range(10, 21))

    assert choose_slices(labels, [16], count=3) == [10, 16, 20]


def test_choose_slices_spreads_over_the_volume_when_nothing_is_labelled():
    labels = labels_on(a_volume((5, 8, 8)), range(0))

    assert choose_slices(labels, count=3) == [0, 2, 4]


def test_colours_are_distinct_when_there_are_more_labels_than_the_palette_has():
    colours = colours_of(list(range(1, 31)))

    assert len(set(colours.values())) == 30


def test_preview_keeps_the_proportions_of_the_patient(tmp_path):
    volume = a_volume((1, 10, 10), spacing=(1.0, 2.0, 1.0))

    write_preview(volume, labels_on(volume, range(1)), tmp_path / "a.png")

    height, width = pixels_of(tmp_path / "a.png").shape[:2]
    assert width == 2 * (PICTURE_PX // 2) + 3 * GAP_PX
    assert height > PICTURE_PX + 2 * GAP_PX  # and the legend below


def test_preview_paints_contour_solid_and_area_transparent(tmp_path):
    volume = a_volume((3, 8, 8))

    write_preview(volume, labels_on(volume, range(3)), tmp_path / "a.png")

    panel = pixels_of(tmp_path / "a.png")[GAP_PX : GAP_PX + PANEL_PX, GAP_PX : GAP_PX + PANEL_PX]
    voxel = PANEL_PX // 8
    assert tuple(panel[2 * voxel, 4 * voxel]) == PALETTE[0]
    assert tuple(panel[4 * voxel, 3 * voxel]) == tuple(int(0.3 * c) for c in PALETTE[0])
    assert tuple(panel[7 * voxel, 3 * voxel]) == (0, 0, 0)


def test_preview_shows_raw_values_within_the_limits_given(tmp_path):
    volume = a_volume((3, 8, 8))

    write_preview(volume, labels_on(volume, range(3)), tmp_path / "a.png", limits=(0.0, 200.0))

    panel = pixels_of(tmp_path / "a.png")[GAP_PX : GAP_PX + PANEL_PX, GAP_PX : GAP_PX + PANEL_PX]
    assert panel[300, 280].tolist() == [127, 127, 127]


def test_preview_numbers_slices_as_the_file_does(tmp_path, monkeypatch):
    captions: list[str] = []
    monkeypatch.setattr("amsam_cli.review._annotate", lambda panel, caption, sides: captions.append(caption))
    plain = a_volume((5, 8, 8))
    source = Source(Path("a.nii.gz"), "nifti", plain.geometry, AxisOrder(flips=(True, False, False)))
    volume = Volume(plain.data, plain.geometry, plain.range, source)

    write_preview(volume, labels_on(volume, range(2)), tmp_path / "a.png")

    assert captions == ["slice 4", "slice 3"]


def test_preview_shows_a_colour_picture_as_it_is(tmp_path):
    data = np.zeros((3, 1, 8, 8), dtype=np.float32)
    data[0], data[1] = 200.0, 60.0
    volume = Volume(data, Geometry.of_picture(8, 8), (0.0, 200.0))

    write_preview(volume, labels_on(volume, range(1)), tmp_path / "a.png")

    assert pixels_of(tmp_path / "a.png")[GAP_PX + 5, GAP_PX + 5].tolist() == [200, 60, 0]


@pytest.mark.parametrize("count", [0, 40], ids=["no-label", "many-labels"])
def test_preview_is_drawn_whatever_the_number_of_labels(tmp_path, count):
    volume = a_volume((2, 8, 8))
    names = {value: f"a structure with a long name {value}" for value in range(1, count + 1)}
    labels = LabelMap(np.zeros((2, 8, 8), dtype=np.uint16), volume.geometry, names)

    write_preview(volume, labels, tmp_path / "a.png")

    assert pixels_of(tmp_path / "a.png").size


def png_pixels(png: bytes) -> np.ndarray:
    with Image.open(BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_difference_shows_the_slices_that_differ_most():
    volume = a_volume((9, 8, 8))
    reference, prediction = labels_on(volume, range(2, 8)), labels_on(volume, range(4, 8))

    pixels = png_pixels(picture_of_difference(prediction, reference, volume))

    assert pixels.shape[1] == 2 * PANEL_PX + 3 * GAP_PX  # slices 2 and 3


def test_difference_outlines_the_reference_and_fills_the_prediction():
    volume = a_volume((1, 40, 40))
    data = np.zeros((2, 1, 40, 40), dtype=np.uint16)
    data[0, 0, 10:20, 4:12] = 1
    data[1, 0, 10:20, 24:32] = 1
    prediction, reference = (LabelMap(each, volume.geometry) for each in data)

    pixels = png_pixels(picture_of_difference(prediction, reference))

    scale = PANEL_PX / 40
    inside = [pixels[GAP_PX + int(15 * scale), GAP_PX + int(x * scale)] for x in (8, 28)]
    lines = (np.abs(pixels[: GAP_PX + 200] - PALETTE[0]).sum(axis=2) == 0).any(axis=0)
    assert (inside[0] != inside[1]).any()
    assert (inside[1] == 60).all()  # plain ground inside the reference, which is a line only
    assert not lines[: GAP_PX + int(20 * scale)].any()
    assert lines[GAP_PX + int(20 * scale) :].any()


def test_difference_of_equal_masks_is_one_panel():
    volume = a_volume((9, 8, 8))
    labels = labels_on(volume, range(2, 8))

    assert png_pixels(picture_of_difference(labels, labels, volume)).shape[1] == PANEL_PX + 2 * GAP_PX


def test_difference_is_cut_out_round_both_masks():
    volume = a_volume((1, 200, 200))
    data = np.zeros((1, 200, 200), dtype=np.uint16)
    data[0, 90:110, 90:110] = 1

    pixels = png_pixels(picture_of_difference(LabelMap(data, volume.geometry), LabelMap(data, volume.geometry)))

    shown = 20 + 2 * 12  # voxels, the margin being 12
    coloured = (pixels[GAP_PX : GAP_PX + PANEL_PX, GAP_PX : GAP_PX + PANEL_PX] != 60).any(axis=2).mean()
    assert coloured == pytest.approx((20 / shown) ** 2, abs=0.01)


def test_preview_draws_boxes_and_clicks_where_the_slice_was_asked(tmp_path: Path):
    volume = a_volume((1, 8, 8))
    labels = labels_on(volume, range(0))
    labels = LabelMap(labels.data, labels.geometry, {1: "organ"})
    asked = np.array([[[1, 1], [7, 5], [3, 4]]], dtype=np.float32)

    write_preview(volume, labels, tmp_path / "plain.png")
    write_preview(volume, labels, tmp_path / "asked.png", prompts={1: asked})

    changed = (pixels_of(tmp_path / "plain.png") != pixels_of(tmp_path / "asked.png")).any(axis=2)
    rows, columns = np.nonzero(changed)
    scale, left = PICTURE_PX / 8, 2 * GAP_PX + PICTURE_PX  # the panel on the right
    assert rows.min() == pytest.approx(GAP_PX + scale, abs=1)
    assert rows.max() == pytest.approx(GAP_PX + 5 * scale, abs=1)
    assert columns.min() == pytest.approx(left + scale, abs=1)
    assert changed[int(GAP_PX + 4 * scale), int(left + 3 * scale)]


def test_preview_draws_nothing_where_the_slice_was_not_asked(tmp_path: Path):
    volume = a_volume((1, 8, 8))
    labels = labels_on(volume, range(1))

    write_preview(volume, labels, tmp_path / "plain.png")
    write_preview(volume, labels, tmp_path / "asked.png", prompts={1: np.full((1, 3, 2), np.nan, np.float32)})

    assert np.array_equal(pixels_of(tmp_path / "plain.png"), pixels_of(tmp_path / "asked.png"))
