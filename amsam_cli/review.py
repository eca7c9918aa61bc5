"""Pictures for a person to judge a mask by: slices with contours, a legend, the file's own slice numbers.

Draws what it is given with Pillow; knows neither models nor how a scan was read.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from amsam_cli.io.atomic import atomic_path
from amsam_cli.volume import Geometry, LabelMap, Volume

Colour: TypeAlias = tuple[int, int, int]

PANELS = 12
COLUMNS = 4
PANEL_PX = 320
PICTURE_PX = 560
GAP_PX = 10
TEXT_PX = 15
CROSS_PX = 6
MARGIN = 12
"""Voxels shown round the masks, at least."""
FILL = 0.3
"""Opacity of a label's area; its contour is solid."""
PERCENTILES = (0.5, 99.5)

# Okabe and Ito (2008): seven colours that stay apart for colour-blind eyes; the ones best seen on grey come first.
PALETTE: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)
_INK, _PAPER = (225, 225, 225), (17, 17, 17)


def write_preview(
    volume: Volume,
    labels: LabelMap,
    path: Path,
    *,
    limits: tuple[float, float] | None = None,
    key_slices: Iterable[int] = (),
    prompts: Mapping[int, NDArray[np.float32]] | None = None,
) -> None:
    """Write `picture_of_mask` to a .png file, which appears whole or not at all.

    Raises:
        InputError: the folder cannot be written.
        ResourceError: the disk is full.
    """
    write_png(picture_of_mask(volume, labels, limits=limits, key_slices=key_slices, prompts=prompts), path)


def write_png(png: bytes, path: Path) -> None:
    """Write a picture; the file appears whole or not at all.

    Raises:
        InputError: the folder cannot be written.
        ResourceError: the disk is full.
    """
    with atomic_path(path) as hidden:
        hidden.write_bytes(png)


def picture_of_mask(
    volume: Volume,
    labels: LabelMap,
    *,
    limits: tuple[float, float] | None = None,
    key_slices: Iterable[int] = (),
    prompts: Mapping[int, NDArray[np.float32]] | None = None,
) -> bytes:
    """Return a PNG that shows a mask on its scan.

    A volume shows up to twelve slices over the labelled extent, upright and with the patient's left on the right; a
    single slice or a picture is shown twice, without and with the mask. Proportions are those of the patient.

    Args:
        volume: the scan, as `read_volume` oriented it.
        labels: on the same grid; every name it knows stands in the legend, found or not.
        limits: raw values shown black and white; None takes percentiles of the scan.
        key_slices: slices that must be among those shown.
        prompts: as in `Segmentation.prompts`; boxes are drawn thin, clicks as a cross, in the label's colour.
    """
    grey = _Greys(volume, *(limits or _percentiles(volume)))
    colours = colours_of(sorted({*labels.names, *labels.values()}))
    shown = [0] if volume.depth == 1 else choose_slices(labels, tuple(key_slices))
    panels = _pair(grey, labels, colours) if volume.depth == 1 else _mosaic(grey, labels, colours, shown)
    for panel, index in zip(panels[-len(shown) :], shown, strict=True):
        _draw_prompts(
            panel, labels.geometry, {value: found[index] for value, found in (prompts or {}).items()}, colours
        )
    return _as_png(_with_legend(_grid(panels), _entries(labels), colours))


def _as_png(sheet: Image.Image) -> bytes:
    png = BytesIO()
    sheet.save(png, format="PNG")
    return png.getvalue()


def picture_of_difference(
    prediction: LabelMap, reference: LabelMap, volume: Volume | None = None, *, count: int = COLUMNS
) -> bytes:
    """Return a PNG of where a mask and its reference differ most: the mask as areas, the reference as lines.

    Shows the slices with the most voxels on which both disagree, cut out round both.

    Args:
        prediction: (D, H, W) labels.
        reference: on the same grid.
        volume: the scan on the same grid; plain grey without it.
        count: how many slices at most.
    """
    wrong = (prediction.data != reference.data).sum(axis=(1, 2))
    either = (prediction.data > 0) | (reference.data > 0)
    worst = sorted(np.argsort(-wrong, kind="stable")[: min(count, max(1, int((wrong > 0).sum())))].tolist())
    _, down, across = np.nonzero(either)
    rows, columns = (_with_margin(places, size) for places, size in zip((down, across), either.shape[1:], strict=True))
    values = sorted({*prediction.names, *reference.names, *prediction.values(), *reference.values()})
    colours = colours_of(values)
    grey = _Greys(volume, *_percentiles(volume)) if volume else None
    height, width = rows.stop - rows.start, columns.stop - columns.start
    geometry = Geometry((1, height, width), reference.geometry.affine, reference.geometry.unit)
    size = _panel_size(geometry, PANEL_PX)
    panels = []
    for index in worst:
        shown = grey.slice(index)[rows, columns] if grey else np.full((height, width, 3), 60, dtype=np.uint8)
        plain = Image.fromarray(np.ascontiguousarray(shown)).resize(size, Image.Resampling.BILINEAR)
        areas = _painted(plain, prediction.data[index, rows, columns], colours, outlined=False)
        panel = _outlined(areas, reference.data[index, rows, columns], colours)
        if prediction.geometry.shape[0] > 1:
            stored = _stored_index(volume, index) if volume else index
            _annotate(panel, f"slice {stored}", _sides(reference.geometry))
        panels.append(panel)
    names = {**prediction.names, **{v: n for v, n in reference.names.items() if n != f"label_{v}"}}
    legend = {value: names.get(value, f"label_{value}") for value in {*prediction.values(), *reference.values()}}
    return _as_png(_with_legend(_grid(panels), legend, colours))


def _with_margin(places: NDArray[np.integer], size: int) -> slice:
    """Return the part of an axis that holds all places, with a margin; all of it where there are none."""
    if not places.size:
        return slice(0, size)
    first, last = int(places.min()), int(places.max())
    margin = max(MARGIN, (last - first) // 4)
    return slice(max(0, first - margin), min(size, last + margin + 1))


def _outlined(panel: Image.Image, mask: NDArray[np.uint16], colours: Mapping[int, Colour]) -> Image.Image:
    """Return `panel` with the outline of each label of `mask` (H, W)."""
    large = _nearest(mask, panel.size)
    pixels = np.array(panel)
    for value, colour in colours.items():
        area = large == value
        pixels[area & ~ndimage.binary_erosion(area, iterations=2, border_value=1)] = colour
    return Image.fromarray(pixels)


def colours_of(values: Sequence[int]) -> dict[int, Colour]:
    """Return a colour for each label value: the palette, then hues a golden angle apart.

    >>> colours_of([1, 4])
    {1: (86, 180, 233), 4: (230, 159, 0)}
    """
    more = (_hue(number) for number in range(len(values)))
    return dict(zip(values, [*PALETTE, *more], strict=False))


def _hue(number: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1.0, 0.65, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def choose_slices(labels: LabelMap, key_slices: Iterable[int] = (), *, count: int = PANELS) -> list[int]:
    """Return the slices to show, ascending: evenly over the labelled ones, each key slice in place of its neighbour.

    Where nothing is labelled they spread over the whole volume.
    """
    shown = np.flatnonzero(labels.data.any(axis=(1, 2)))
    first, last = (shown[0], shown[-1]) if shown.size else (0, len(labels.data) - 1)
    evenly = np.linspace(first, last, min(count, int(last - first) + 1)).round().astype(int)
    chosen = set(evenly.tolist())
    for key in key_slices:
        if key not in chosen:
            chosen.discard(min(chosen - set(key_slices), key=lambda index: abs(index - key), default=key))
            chosen.add(key)
    return sorted(chosen)


@dataclass(frozen=True, slots=True, eq=False)
class _Greys:
    """A scan as something to look at: which raw values are black and white."""

    volume: Volume
    black: float
    white: float

    def slice(self, index: int) -> NDArray[np.uint8]:
        """Return one slice as (H, W, 3)."""
        shown = self.volume.data[:3, index] if len(self.volume.data) >= 3 else self.volume.data[:1, index]
        scaled = np.clip((shown - self.black) / max(self.white - self.black, 1e-6), 0, 1)
        return np.broadcast_to((255 * scaled).astype(np.uint8).transpose(1, 2, 0), (*shown.shape[1:], 3))


def _percentiles(volume: Volume) -> tuple[float, float]:
    if volume.is_picture and volume.range[0] >= 0 and 1 < volume.range[1] <= 255:
        return 0.0, 255.0  # a photograph is shown as it is
    low, high = np.percentile(volume.data.reshape(-1)[:: max(1, volume.data.size // 1_000_000)], PERCENTILES)
    return (float(low), float(high)) if high > low else volume.range


def _pair(grey: _Greys, labels: LabelMap, colours: Mapping[int, Colour]) -> list[Image.Image]:
    """Return a single slice without and with its mask."""
    size = _panel_size(labels.geometry, PICTURE_PX)
    plain = Image.fromarray(grey.slice(0)).resize(size, Image.Resampling.BILINEAR)
    return [plain, _painted(plain, labels.data[0], colours)]


def _mosaic(grey: _Greys, labels: LabelMap, colours: Mapping[int, Colour], shown: Sequence[int]) -> list[Image.Image]:
    size = _panel_size(labels.geometry, PANEL_PX)
    panels = []
    for index in shown:
        plain = Image.fromarray(grey.slice(index)).resize(size, Image.Resampling.BILINEAR)
        panel = _painted(plain, labels.data[index], colours)
        _annotate(panel, f"slice {_stored_index(grey.volume, index)}", _sides(labels.geometry))
        panels.append(panel)
    return panels


def _draw_prompts(
    panel: Image.Image, geometry: Geometry, prompts: Mapping[int, NDArray[np.float32]], colours: Mapping[int, Colour]
) -> None:
    """Draw the box and the click of each label, (3, 2) xy in voxels, on the panel of a slice; NaN draws nothing."""
    pen = ImageDraw.Draw(panel)
    _, height, width = geometry.shape
    scale = np.array([panel.width / width, panel.height / height])
    for value, points in prompts.items():
        first, second, click = points * scale
        if np.isfinite([first, second]).all():
            pen.rectangle((*first, *second), outline=colours[value])
        if np.isfinite(click).all():
            x, y = click
            pen.line((x - CROSS_PX, y, x + CROSS_PX, y), fill=colours[value], width=2)
            pen.line((x, y - CROSS_PX, x, y + CROSS_PX), fill=colours[value], width=2)


def _stored_index(volume: Volume, index: int) -> int:
    return volume.source.order.stored_index(index, volume.depth) if volume.source else index


def _panel_size(geometry: Geometry, longest: int) -> tuple[int, int]:
    """Return (width, height) in pixels: the longer side is `longest`, proportions as in the patient."""
    _, height, width = geometry.shape
    _, spacing_h, spacing_w = geometry.spacing
    scale = longest / max(height * spacing_h, width * spacing_w)
    return max(1, round(width * spacing_w * scale)), max(1, round(height * spacing_h * scale))


def _painted(
    plain: Image.Image, mask: NDArray[np.uint16], colours: Mapping[int, Colour], *, outlined: bool = True
) -> Image.Image:
    """Return `plain` with each label of `mask` (H, W) as a transparent area, outlined or not."""
    large = _nearest(mask, plain.size)
    pixels = np.array(plain, dtype=np.float32)
    for value, colour in colours.items():
        area = large == value
        pixels[area] = (1 - FILL) * pixels[area] + FILL * np.array(colour, dtype=np.float32)
    painted = Image.fromarray(pixels.astype(np.uint8))
    return _outlined(painted, mask, colours) if outlined else painted


def _nearest(mask: NDArray[np.uint16], size: tuple[int, int]) -> NDArray[np.uint16]:
    """Return `mask` (H, W) at (width, height) `size`, each pixel taking the label it lies in."""
    columns, rows = ((np.arange(n) + 0.5) * old // n for n, old in zip(size, mask.shape[::-1], strict=True))
    return mask[np.ix_(rows.astype(int), columns.astype(int))]


def _sides(geometry: Geometry) -> tuple[str, str] | None:
    """Return the letters of the patient's sides at the left and right of each slice; None for a picture.

    >>> _sides(Geometry((1, 2, 2), np.diag([-1.0, -1.0, 1.0, 1.0])[:, [2, 1, 0, 3]]))
    ('R', 'L')
    """
    if geometry.unit == "px":
        return None
    to_the_right = geometry.affine[:3, 2]
    axis = int(np.abs(to_the_right).argmax())
    names = (("L", "R"), ("P", "A"), ("I", "S"))[axis]
    return names if to_the_right[axis] > 0 else (names[1], names[0])


def _annotate(panel: Image.Image, caption: str, sides: tuple[str, str] | None) -> None:
    """Write the caption in the upper left corner and the patient's sides at the middle of the edges."""
    pen = ImageDraw.Draw(panel)
    font = ImageFont.load_default(TEXT_PX)
    width, height = panel.size
    texts = [((4, 3), caption, "la")]
    if sides:
        texts += [((4, height // 2), sides[0], "lm"), ((width - 4, height // 2), sides[1], "rm")]
    for place, text, anchor in texts:
        pen.text(place, text, _INK, font=font, anchor=anchor, stroke_width=2, stroke_fill=_PAPER)


def _grid(panels: Sequence[Image.Image]) -> Image.Image:
    """Return equal panels side by side, at most four in a row."""
    width, height = panels[0].size
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP_PX) + GAP_PX, rows * (height + GAP_PX) + GAP_PX), _PAPER)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        sheet.paste(panel, (GAP_PX + column * (width + GAP_PX), GAP_PX + row * (height + GAP_PX)))
    return sheet


def _entries(labels: LabelMap) -> dict[int, str]:
    """Return label value -> its entry in the legend; a label that was not found says so."""
    found = set(labels.values())
    values = {*labels.names, *found}
    return {v: labels.names.get(v, f"label_{v}") + ("" if v in found else " (not found)") for v in values}


def _with_legend(sheet: Image.Image, names: Mapping[int, str], colours: Mapping[int, Colour]) -> Image.Image:
    """Return `sheet` with the colours and names of some labels below it."""
    font = ImageFont.load_default(TEXT_PX)
    line, widest = TEXT_PX + 10, sheet.width
    entries, x, y = [], GAP_PX, sheet.height
    for name, colour in ((names[value], colour) for value, colour in colours.items() if value in names):
        width = line + int(font.getlength(name)) + 2 * GAP_PX
        if x > GAP_PX and x + width > sheet.width:
            x, y = GAP_PX, y + line
        entries.append((x, y, colour, name))
        x += width
        widest = max(widest, x)
    whole = Image.new("RGB", (widest, y + line + GAP_PX), _PAPER)
    whole.paste(sheet)
    pen = ImageDraw.Draw(whole)
    for left, top, colour, name in entries:
        pen.rectangle((left, top + 3, left + TEXT_PX, top + 3 + TEXT_PX), fill=colour)
        pen.text((left + line, top + 3), name, _INK, font=font)
    return whole
