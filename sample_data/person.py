"""A drawn person, head to foot, before some background, and the mask of who is who.

A skeleton of joints is posed, limbs are drawn around it as tapered capsules, and each part is shaded as if it were
round. Positions are (x, y) in picture heights, y downwards; drawing happens at three times the final size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]
Colour: TypeAlias = Sequence[float] | Array

HEIGHT, WIDTH, OVERSAMPLING = 256, 192, 3
GROUND = 0.93

# Degrees from hanging straight down, positive outwards: upper arm, forearm, thigh, shin; the picture's left side first.
POSES: Mapping[str, tuple[Sequence[float], Sequence[float]]] = {
    "standing": ((12, 6, 4, 2), (14, 10, 5, 3)),
    "walking": ((28, 12, 24, 4), (-18, -34, -14, 22)),
    "waving": ((10, 4, 6, 4), (128, 172, 5, 2)),
    "akimbo": ((42, -38, 9, 7), (40, -40, 10, 6)),
    "star": ((98, 104, 24, 22), (94, 88, 22, 24)),
    "squatting": ((62, -8, 66, -14), (58, -12, 62, -10)),
    "reaching": ((158, 172, 7, 4), (150, 166, 8, 6)),
    "lunging": ((70, 96, 50, 4), (82, 60, 30, 38)),
}
SKINS = ((244, 208, 180), (224, 172, 138), (190, 136, 100), (141, 94, 66), (92, 60, 44))
HAIRS = ((38, 28, 24), (84, 54, 34), (168, 122, 66), (206, 178, 128), (120, 118, 116), (132, 56, 34))


@dataclass(frozen=True, eq=False)
class Person:
    """What somebody looks like: size, clothes, and where their joints are.

    Attributes:
        height: head to foot when upright, in picture heights.
        joints: name -> (x, y); left and right are the picture's.
        colours: skin, hair, top, bottom and shoes, RGB 0-255.
        bulk: how wide limbs and trunk are, 1 is average.
        skirt: whether the lower garment is a skirt.
        sleeves: how much of each arm is covered, 0, 0.5 or 1.
    """

    height: float
    joints: Mapping[str, Array]
    colours: Mapping[str, Array]
    bulk: float
    skirt: bool
    sleeves: float


class Sheet:
    """A picture being drawn at three times its size.

    Attributes:
        pixels: (H, W, 3) float64, 0-255.
        figure: (H, W) bool, where the person is.
    """

    def __init__(self) -> None:
        size = (HEIGHT * OVERSAMPLING, WIDTH * OVERSAMPLING)
        self.pixels: Array = np.zeros((*size, 3))
        self.figure: Mask = np.zeros(size, dtype=bool)

    @property
    def scale(self) -> float:
        """Drawn pixels in one picture height."""
        return float(self.figure.shape[0])

    def polygon(self, points: ArrayLike) -> Mask:
        """Return the inside of a polygon with corners (N, 2), (H, W) bool."""
        canvas = Image.new("L", self.figure.shape[::-1])
        corners = np.asarray(points, dtype=np.float64) * self.scale
        ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in corners], fill=1)
        return np.asarray(canvas, dtype=bool)

    def ellipse(self, centre: Sequence[float] | Array, radii: tuple[float, float]) -> Mask:
        """Return the inside of an ellipse, (H, W) bool."""
        turn = np.linspace(0, 2 * np.pi, 60)
        return self.polygon(np.stack([centre[0] + radii[0] * np.cos(turn), centre[1] + radii[1] * np.sin(turn)], -1))

    def limb(self, start: Array, end: Array, radius: float, end_radius: float) -> Mask:
        """Return a tapered capsule between two joints, (H, W) bool."""
        along = (end - start) / max(float(np.linalg.norm(end - start)), 1e-6)
        across = np.array([-along[1], along[0]])
        sides = [start + radius * across, end + end_radius * across, end - end_radius * across, start - radius * across]
        tips = self.ellipse(start, (radius, radius)) | self.ellipse(end, (end_radius, end_radius))
        return self.polygon(sides) | tips

    def fill(
        self, part: Mask, colour: Colour, *, relief: float = 0.0, light: float = 1.0, figure: bool = False
    ) -> None:
        """Colour a part; `relief` makes it look round, lit from the right when `light` is positive."""
        reach = 0.012 * self.scale
        rows, columns = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return  # outside the picture
        window = tuple(slice(max(0, i[0] - int(4 * reach)), i[-1] + int(4 * reach)) for i in (rows, columns))
        inside = part[window]
        soft = gaussian_filter(inside.astype(np.float64), reach) if relief else np.ones(inside.shape)
        shade = 1 + relief * (soft - 1) - light * relief * np.gradient(soft, axis=1) * reach
        self.pixels[window][inside] = (np.asarray(colour) * shade[..., None])[inside]
        if figure:
            self.figure |= part

    def finished(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Mask]:
        """Return the picture as a camera sees it, (H, W, 3), and the mask, (H, W), at the final size."""
        cells = (HEIGHT, OVERSAMPLING, WIDTH, OVERSAMPLING)
        picture = self.pixels.reshape(*cells, 3).mean(axis=(1, 3))
        mask = self.figure.reshape(cells).mean(axis=(1, 3)) > 0.5
        cloth = gaussian_filter(rng.standard_normal(mask.shape), 1.3)
        picture = gaussian_filter(picture + (6 * cloth / cloth.std())[..., None], (0.6, 0.6, 0))
        y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
        slant = rng.uniform(-0.16, 0.16, 2)
        lighting = rng.uniform(0.75, 1.1) * (1 + slant[0] * x + slant[1] * y - 0.12 * (x**2 + y**2))
        picture = picture * lighting[..., None] * (1 + rng.uniform(-0.06, 0.06, 3))
        picture = picture + rng.normal(0, 2.0, picture.shape[:2])[..., None]
        return np.rint(np.clip(picture, 0, 255)).astype(np.uint8), np.asarray(mask)


def draw(seed: int) -> tuple[NDArray[np.uint8], Mask]:
    """Return a picture, (256, 192, 3) uint8, and where the person in it is, (256, 192) bool."""
    rng, sheet = np.random.default_rng([seed, 20]), Sheet()
    person = invent(rng, list(POSES)[seed % len(POSES)])
    light = float(rng.choice([-1, 1]))
    draw_background(sheet, rng, person, indoors=seed % 2 == 0)
    draw_shadow(sheet, person, light)
    draw_legs(sheet, person, light)
    draw_trunk(sheet, person, light)
    draw_head(sheet, person, light)
    draw_arms(sheet, person, light)
    draw_foreground(sheet, rng)
    return sheet.finished(rng)


def invent(rng: np.random.Generator, pose: str) -> Person:
    """Return somebody new in a given pose, give or take some degrees."""
    height = float(rng.uniform(0.72, 0.8) if pose != "reaching" else 0.68)
    angles = np.radians(np.asarray(POSES[pose]) + rng.normal(0, 5, (2, 4)))
    if rng.random() < 0.5:
        angles = angles[::-1]
    colours = {
        "skin": np.array(SKINS[rng.integers(len(SKINS))], dtype=float),
        "hair": np.array(HAIRS[rng.integers(len(HAIRS))], dtype=float),
        "top": rng.uniform(30, 235, 3),
        "bottom": rng.uniform(25, 170, 3),
        "shoes": rng.uniform(15, 140, 3),
    }
    return Person(
        height=height,
        joints=joints_of(angles, height, x=float(rng.uniform(0.31, 0.44)), lean=float(rng.normal(0, 0.05))),
        colours=colours,
        bulk=float(rng.uniform(0.88, 1.2)),
        skirt=bool(rng.random() < 0.3),
        sleeves=float(rng.choice([0.0, 0.5, 1.0])),
    )


def joints_of(angles: Array, height: float, *, x: float, lean: float) -> dict[str, Array]:
    """Return where the joints are for limb angles (2, 4) in radians, feet on the ground, hips above `x`."""
    hip, neck = np.zeros(2), np.array([np.sin(lean), -np.cos(lean)]) * 0.32
    joints = {"hip": hip, "neck": neck, "head": neck + 0.097 * np.array([np.sin(lean), -np.cos(lean)])}
    for name, side, (upper, fore, thigh, shin) in zip(("left", "right"), (-1, 1), angles, strict=True):
        joints[name + " shoulder"] = beside(neck, side * 0.088, 0.028)
        joints[name + " elbow"] = joints[name + " shoulder"] + 0.165 * direction(side * upper)
        joints[name + " wrist"] = joints[name + " elbow"] + 0.145 * direction(side * fore)
        joints[name + " hand"] = joints[name + " wrist"] + 0.035 * direction(side * fore)
        joints[name + " thigh"] = beside(hip, side * 0.048, 0.01)
        joints[name + " knee"] = joints[name + " thigh"] + 0.235 * direction(side * thigh)
        joints[name + " ankle"] = joints[name + " knee"] + 0.22 * direction(side * shin)
        joints[name + " toe"] = beside(joints[name + " ankle"], side * 0.035, 0.028)
    lowest = max(joint[1] for joint in joints.values())
    return {name: np.array([x, GROUND]) + height * (joint - (0, lowest)) for name, joint in joints.items()}


def direction(angle: float) -> Array:
    """Return the unit vector that many radians from straight down."""
    return np.array([np.sin(angle), np.cos(angle)])


# --- the person --------------------------------------------------------------------------------------------------


def beside(joint: Array, right: float, down: float) -> Array:
    """Return the point that far from a joint."""
    return np.asarray(joint + np.array([right, down]))


def draw_shadow(sheet: Sheet, person: Person, light: float) -> None:
    """Darken the floor away from the light; the shadow is no part of the person."""
    feet = (person.joints["left ankle"] + person.joints["right ankle"]) / 2
    shadow = sheet.ellipse(beside(feet, -0.05 * light, 0.035), (0.17, 0.02)).astype(np.float64)
    sheet.pixels *= 1 - 0.45 * gaussian_filter(shadow, 0.008 * sheet.scale)[..., None]


def draw_legs(sheet: Sheet, person: Person, light: float) -> None:
    """Draw legs and shoes, in trousers or under a skirt."""
    joints, colours, size = person.joints, person.colours, person.height * person.bulk
    cloth = colours["skin"] if person.skirt else colours["bottom"]
    for side in ("left", "right"):
        shin = sheet.limb(joints[side + " knee"], joints[side + " ankle"], 0.036 * size, 0.022 * size)
        thigh = sheet.limb(joints[side + " thigh"], joints[side + " knee"], 0.055 * size, 0.037 * size)
        shoe = sheet.limb(beside(joints[side + " ankle"], 0, 0.012), joints[side + " toe"], 0.02 * size, 0.016 * size)
        sheet.fill(shoe, colours["shoes"], relief=0.7, light=light, figure=True)
        sheet.fill(shin | thigh, cloth, relief=0.8, light=light, figure=True)


def draw_trunk(sheet: Sheet, person: Person, light: float) -> None:
    """Draw neck, top and the upper part of the lower garment."""
    joints, colours, size = person.joints, person.colours, person.height * person.bulk
    hip, neck = joints["hip"], joints["neck"]
    if person.skirt:
        hem = [beside(joints["right knee"], 0.05 * size, -0.02), beside(joints["left knee"], -0.05 * size, -0.02)]
        skirt = sheet.polygon([beside(hip, -0.062 * size, -0.05), beside(hip, 0.062 * size, -0.05), *hem])
        sheet.fill(skirt, colours["bottom"], relief=0.6, light=light, figure=True)
    else:
        sheet.fill(
            sheet.ellipse(hip, (0.088 * size, 0.06 * size)), colours["bottom"], relief=0.6, light=light, figure=True
        )
    throat = sheet.limb(beside(neck, 0, 0.01), joints["head"], 0.03 * size, 0.028 * size)
    sheet.fill(throat, 0.88 * colours["skin"], relief=0.5, light=light, figure=True)
    shoulders = [beside(joints[f"{side} shoulder"], 0, -0.008) for side in ("left", "right")]
    waist = beside(hip, 0, -0.1 * person.height)
    outline = [shoulders[0], beside(neck, -0.03, 0), beside(neck, 0.03, 0), shoulders[1]]
    outline += [
        beside(waist, 0.078 * size, 0),
        beside(hip, 0.09 * size, 0.0),
        beside(hip, -0.09 * size, 0.0),
        beside(waist, -0.078 * size, 0),
    ]
    rounded = sheet.limb(shoulders[0], shoulders[1], 0.034 * size, 0.034 * size)
    sheet.fill(sheet.polygon(outline) | rounded, colours["top"], relief=0.7, light=light, figure=True)


def draw_head(sheet: Sheet, person: Person, light: float) -> None:
    """Draw hair, face, eyes and mouth."""
    head, size, colours = person.joints["head"], person.height, person.colours
    if person.skirt:  # long hair goes with it, so that hair varies too
        sheet.fill(
            sheet.ellipse(beside(head, 0, 0.025), (0.066 * size, 0.095 * size)),
            colours["hair"],
            relief=0.5,
            figure=True,
        )
    sheet.fill(
        sheet.ellipse(beside(head, 0, -0.012), (0.057 * size, 0.068 * size)), colours["hair"], relief=0.5, figure=True
    )
    sheet.fill(
        sheet.ellipse(beside(head, 0, 0.008), (0.049 * size, 0.062 * size)),
        colours["skin"],
        relief=0.6,
        light=light,
        figure=True,
    )
    for side in (-1, 1):
        sheet.fill(sheet.ellipse(beside(head, side * 0.019 * size, 0), (0.007 * size, 0.005 * size)), (40, 32, 30))
        sheet.fill(
            sheet.ellipse(beside(head, side * 0.019 * size, -0.013), (0.011 * size, 0.003 * size)), colours["hair"]
        )
    sheet.fill(sheet.ellipse(beside(head, 0, 0.038 * size), (0.016 * size, 0.005 * size)), 0.62 * colours["skin"])


def draw_arms(sheet: Sheet, person: Person, light: float) -> None:
    """Draw arms with sleeves of this person's length, and hands."""
    joints, colours, size = person.joints, person.colours, person.height * person.bulk
    for side in ("left", "right"):
        shoulder, elbow, wrist = (joints[f"{side} {joint}"] for joint in ("shoulder", "elbow", "wrist"))
        upper = sheet.limb(shoulder, elbow, 0.034 * size, 0.026 * size)
        fore = sheet.limb(elbow, wrist, 0.026 * size, 0.018 * size)
        hand = sheet.limb(wrist, joints[side + " hand"], 0.018 * size, 0.02 * size)
        sheet.fill(hand, colours["skin"], relief=0.6, light=light, figure=True)
        arm = upper | fore
        sheet.fill(arm, colours["skin"], relief=0.8, light=light, figure=True)
        if person.sleeves:
            sleeve = (
                arm if person.sleeves == 1 else sheet.limb(shoulder, (shoulder + elbow) / 2, 0.037 * size, 0.034 * size)
            )
            sheet.fill(sleeve, 0.95 * colours["top"], relief=0.8, light=light, figure=True)


# --- what is around the person -----------------------------------------------------------------------------------


def draw_background(sheet: Sheet, rng: np.random.Generator, person: Person, *, indoors: bool) -> None:
    """Draw a wall with furniture or a street with trees, cluttered with the person's own colours."""
    horizon = float(rng.uniform(0.66, 0.84))
    y = np.linspace(0, 1, len(sheet.figure))[:, None, None]
    above, below = muted(rng, 130, 225), muted(rng, 110, 215)
    if not indoors:
        above = rng.uniform((120, 165, 200), (190, 215, 245))
    ground = 0.75 * below
    sheet.pixels[:] = np.where(y < horizon, above * (1 - 0.25 * y / horizon), ground * (0.8 + 0.4 * (y - horizon)))
    (draw_room if indoors else draw_street)(sheet, rng, horizon)
    draw_clutter(sheet, rng, person)


def draw_room(sheet: Sheet, rng: np.random.Generator, horizon: float) -> None:
    """Draw a window or picture, a cupboard and the lines of a floor."""
    for _ in range(int(rng.integers(2, 4))):
        x, y = rng.uniform((0.0, 0.03), (0.6, 0.3))
        frame = box(x, y, *rng.uniform((0.08, 0.1), (0.24, 0.26)))
        sheet.fill(sheet.polygon(frame), rng.uniform(40, 130, 3), relief=0.3)
        inside = np.mean(frame, axis=0) + 0.86 * (np.asarray(frame) - np.mean(frame, axis=0))
        sheet.fill(sheet.polygon(inside), rng.uniform(90, 240, 3))
    width, tall = rng.uniform((0.14, 0.2), (0.3, 0.46))
    x = float(rng.choice([-0.04, 0.78 - width]))
    wood = rng.uniform((90, 60, 40), (180, 140, 110))
    sheet.fill(sheet.polygon(box(x, horizon - tall, width, tall + 0.04)), wood, relief=0.3)
    for shelf in np.linspace(horizon - tall, horizon, 4)[1:]:
        sheet.fill(sheet.polygon(box(x, shelf - 0.012, width, 0.012)), 0.6 * wood)
    for board in np.linspace(-0.6, 1.4, 13):
        line = [(0.375 + 0.45 * (board - 0.375), horizon), (board, 1.0), (board + 0.006, 1.0)]
        sheet.fill(sheet.polygon(line), 0.4 * wood + 60)


def draw_street(sheet: Sheet, rng: np.random.Generator, horizon: float) -> None:
    """Draw houses with windows and trees in front of them."""
    x = -0.05
    while x < 0.8:
        width, tall = rng.uniform((0.12, 0.2), (0.26, 0.55))
        wall = muted(rng, 85, 205)
        sheet.fill(sheet.polygon(box(x, horizon - tall, width, tall)), wall, relief=0.2)
        for row in np.arange(horizon - tall + 0.04, horizon - 0.06, 0.09):
            for column in np.arange(x + 0.025, x + width - 0.04, 0.06):
                sheet.fill(sheet.polygon(box(column, row, 0.03, 0.045)), 0.5 * wall)
        x += width
    for _ in range(int(rng.integers(1, 4))):
        foot = np.array([rng.uniform(0, 0.75), horizon + rng.uniform(0, 0.05)])
        crown = foot - (0, rng.uniform(0.22, 0.36))
        sheet.fill(sheet.limb(foot, crown, 0.014, 0.01), (86, 62, 44), relief=0.5)
        for _ in range(7):
            leaves = sheet.ellipse(crown + rng.normal(0, 0.045, 2), (0.06, 0.055))
            sheet.fill(leaves, rng.uniform((40, 80, 30), (100, 140, 70)), relief=0.5)


def draw_clutter(sheet: Sheet, rng: np.random.Generator, person: Person) -> None:
    """Draw odd things in the colours of the person's skin and clothes: colour alone finds nobody."""
    for colour in person.colours.values():
        for _ in range(2):
            centre = rng.uniform((0.02, 0.1), (0.73, 0.97))
            shape = rng.integers(3)
            if shape == 0:
                thing = sheet.ellipse(centre, tuple(rng.uniform(0.02, 0.06, 2)))
            elif shape == 1:
                thing = sheet.polygon(box(*centre, *rng.uniform(0.03, 0.13, 2)))
            else:
                thing = sheet.limb(centre, centre + rng.normal(0, 0.1, 2), *rng.uniform(0.012, 0.035, 2))
            sheet.fill(thing, colour + rng.normal(0, 10, 3), relief=0.6)


def draw_foreground(sheet: Sheet, rng: np.random.Generator) -> None:
    """Sometimes put something small in front of the feet; it takes its pixels away from the person."""
    if rng.random() < 0.5:
        centre = np.array([rng.uniform(0.1, 0.65), rng.uniform(0.95, 1.0)])
        thing = sheet.ellipse(centre, (float(rng.uniform(0.05, 0.1)), 0.05))
        sheet.fill(thing, rng.uniform(40, 200, 3), relief=0.7)
        sheet.figure &= ~thing


def muted(rng: np.random.Generator, darkest: float, brightest: float) -> Array:
    """Return a wall colour: any brightness between two, never far from grey."""
    return np.asarray(rng.uniform(darkest, brightest) + rng.normal(0, 16, 3))


def box(x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    """Return the corners of a rectangle."""
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
