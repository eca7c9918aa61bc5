"""A made-up upper abdomen in CT: body wall, skeleton, organs, vessels and bowel of one invented patient.

Everything is described once, in the millimetres of a standard patient (origin in front of the first lumbar vertebra;
x to the patient's left, y to the back, z to the head); `Patient` says how one person differs from it. The liver
therefore lies at negative x. Tissues are painted back to front, so a later one may cover an earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from shapes import Canvas, Field, Point, Space, carve, common, curve, ellipsoid, noise, solid, tube, union

LABELS: Mapping[int, str] = {1: "liver", 2: "spleen", 3: "kidney_right", 4: "kidney_left", 5: "aorta"}
LIVER, SPLEEN, KIDNEY_RIGHT, KIDNEY_LEFT, AORTA = LABELS

AIR, LUNG, FAT, WATER, MUSCLE = -1000.0, -840.0, -102.0, 8.0, 56.0
VERTEBRA_PITCH_MM = 36.0


@dataclass(frozen=True)
class Enhancement:
    """How bright contrast medium has made each tissue at the time of this scan, in HU."""

    liver: float = 106
    spleen: float = 119
    cortex: float = 150
    medulla: float = 124
    aorta: float = 148
    veins: float = 144
    bowel: float = 84


@dataclass(frozen=True)
class Patient:
    """One invented person and how the scanner saw them.

    Attributes:
        seed: of every random choice.
        shape: voxels along (i, j, k).
        spacing: mm along (i, j, k).
        build: size relative to the standard patient along (x, y, z).
        shift: where the standard origin lies in the field of view, mm.
        fat_mm: thickness of the fat under the skin at the flanks.
        noise_hu: standard deviation of the scanner's noise at the centre.
    """

    seed: int
    shape: tuple[int, int, int]
    spacing: Point
    build: Point = (1, 1, 1)
    shift: Point = (0, 0, 0)
    fat_mm: float = 16
    noise_hu: float = 15
    enhancement: Enhancement = field(default_factory=Enhancement)


@dataclass(frozen=True, eq=False)
class Scene:
    """A patient's body while it is painted: the space it lies in and the borders every organ respects."""

    patient: Patient
    space: Space
    canvas: Canvas
    cavity: Field
    diaphragm: Field

    def rng(self, organ: str) -> np.random.Generator:
        """Return this organ's own source of chance, so that changing one organ leaves the others as they are."""
        return np.random.default_rng([self.patient.seed, *organ.encode()])

    def jittered(self, organ: str, *, shift_mm: float = 5, scale: float = 0.06) -> Space:
        """Return the space with this organ's own small displacement and change of size."""
        rng = self.rng(organ + " place")
        shift = rng.uniform(-shift_mm, shift_mm, 3)
        return self.space.moved(tuple(shift), tuple(rng.uniform(1 - scale, 1 + scale, 3)))

    def rough(self, organ: str, *, amplitude_mm: float, length_mm: float) -> Field:
        """Return an offset that makes a smooth organ surface uneven."""
        return amplitude_mm * noise(self.rng(organ + " surface"), self.space, length_mm)

    def texture(self, organ: str, mean_hu: float, *, amplitude_hu: float, length_mm: float = 9) -> Field:
        """Return the intensity of a tissue that is not quite uniform."""
        return mean_hu + amplitude_hu * noise(self.rng(organ + " texture"), self.space, length_mm)


def paint_patient(patient: Patient) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Return a patient's scan in HU, (I, J, K) int16, and its labels, (I, J, K) uint8."""
    scene = prepare(patient)
    paint_wall(scene)
    paint_chest(scene)
    paint_bowel(scene)
    paint_stomach(scene)
    paint_renal_fat(scene)
    paint_back_muscles(scene)
    paint_spine(scene)
    paint_ribs(scene)
    paint_vessels(scene)
    paint_kidneys(scene)
    paint_spleen(scene)
    paint_liver(scene)
    return scan(scene), scene.canvas.labels


def prepare(patient: Patient) -> Scene:
    """Return a patient's empty body: a cavity under a domed diaphragm."""
    grid = Space.of_grid(patient.shape, patient.spacing)
    rng = np.random.default_rng(patient.seed)
    space = grid.moved(patient.shift, patient.build).warped(rng, amplitude_mm=3.0, length_mm=110)
    return Scene(patient, space, Canvas(patient.shape), trunk(space, 124, 84, back=70), below_diaphragm(space))


def trunk(space: Space, half_width: float, front: float, *, back: float) -> Field:
    """Return a trunk: an oval across, flat at the back, wider at the ribs than at the waist."""
    waist = 1 + 0.035 * np.tanh((space.z - 5) / 45)
    depth = np.where(space.y < 0, front, back)
    power = np.where(space.y < 0, 2.2, 2.6)
    radius = (np.abs(space.x / half_width / waist) ** power + np.abs(space.y / depth / waist) ** power) ** (1 / power)
    return np.asarray((radius - 1) * min(front, back))


def below_diaphragm(space: Space) -> Field:
    """Return all that lies under the two domes of the diaphragm; it hangs lowest at the back."""
    edge = 44 - 0.42 * space.y
    right = np.exp(-(((space.x + 58) / 72) ** 2) - ((space.y + 6) / 70) ** 2)
    left = np.exp(-(((space.x - 62) / 72) ** 2) - ((space.y - 4) / 74) ** 2)
    height = edge + np.maximum(84 - edge, 0) * right + np.maximum(76 - edge, 0) * left
    return np.asarray((space.z - height) * 0.75)


# --- body wall ---------------------------------------------------------------------------------------------------


def paint_wall(scene: Scene) -> None:
    """Paint the couch, skin, fat under the skin, the muscles of the wall and the fat of the cavity."""
    space, canvas, fat = scene.space, scene.canvas, scene.patient.fat_mm
    paint_couch(scene)
    outside = trunk(space, 137 + fat, 92 + 1.1 * fat, back=100 + 0.7 * fat)
    outside = outside + 7 * np.exp(-((space.x / 14) ** 2)) * (space.y > 0) + 2 * noise(scene.rng("skin"), space, 70)
    canvas.paint(outside, 20)
    canvas.paint(outside + 2.5, scene.texture("fat", FAT, amplitude_hu=7, length_mm=14))
    muscle = scene.texture("muscle", MUSCLE, amplitude_hu=6, length_mm=12)
    canvas.paint(trunk(space, 137, 92, back=80), muscle)
    for side in (-1, 1):  # the straight muscles of the front
        canvas.paint(ellipsoid(space, (side * 29, -83, 0), (27, 7, 400), turn=(0, 0, side * 9)), muscle)
    canvas.tint(np.abs(trunk(space, 131, 88, back=75)) - 0.7, -20)  # fat between the layers of the flank
    canvas.paint(scene.cavity, scene.texture("mesentery", FAT, amplitude_hu=9, length_mm=11))


def paint_couch(scene: Scene) -> None:
    """Paint the couch, a thin shell under the patient's back."""
    x, y = scene.space.x, scene.space.y
    top = 107 + 0.75 * scene.patient.fat_mm - (x / 44) ** 2
    scene.canvas.paint(common(np.abs(y - top - 14) - 11, np.abs(x) - 190), -930)
    scene.canvas.paint(common(np.abs(y - top - 3) - 2.0, np.abs(x) - 190), 60)


def paint_back_muscles(scene: Scene) -> None:
    """Paint the muscles along the spine: erectors behind, psoas and quadratus lumborum beside, the crura in front."""
    space, muscle = scene.space, scene.texture("back muscles", MUSCLE, amplitude_hu=7, length_mm=12)
    for side, name in ((-1, "right"), (1, "left")):
        erector = ellipsoid(space, (side * 33, 82, -20), (32, 20, 400), power=2.6)
        scene.canvas.paint(erector + scene.rough(name + " erector", amplitude_mm=1.5, length_mm=24), muscle)
        scene.canvas.tint(np.abs(ellipsoid(space, (side * 24, 84, -20), (11, 15, 400))) - 0.6, -30)
        psoas = curve([(side * 22, 42, 10), (side * 32, 42, -40), (side * 40, 40, -130)])
        scene.canvas.paint(tube(space, psoas, np.linspace(3, 23, len(psoas))), muscle)
        quadratus = ellipsoid(space, (side * 62, 62, -70), (19, 8, 72), turn=(0, 0, side * -18))
        scene.canvas.paint(quadratus, muscle)
        crus = curve([(side * 13, 22, -35), (side * 15, 16, 5), (side * 17, 8, 40), (side * 24, -6, 62)])
        scene.canvas.paint(tube(space, crus, 4.5), muscle)


# --- skeleton ----------------------------------------------------------------------------------------------------


def paint_spine(scene: Scene) -> None:
    """Paint vertebrae and discs, the canal with its cord, and the processes behind it."""
    space = scene.space
    level = np.mod(space.z / VERTEBRA_PITCH_MM, 1.0)  # 0 at a disc, 0.5 in the middle of a vertebra
    column = ellipsoid(space, (0, 43, 0), (23, 17, 4000), power=2.5) + 2.5 * np.sin(np.pi * level) ** 2
    canal = ellipsoid(space, (0, 66, 0), (11, 8.5, 4000))
    disc = (np.abs(level - np.round(level)) * VERTEBRA_PITCH_MM) - 4.0
    marrow = scene.texture("marrow", 190, amplitude_hu=35, length_mm=7)
    paint_arches(scene, level, marrow)
    scene.canvas.paint(column, 420)
    scene.canvas.tint(column + 2.4, marrow)
    scene.canvas.tint(common(column, disc), 88)
    scene.canvas.paint(canal, -10)
    scene.canvas.tint(canal + 2, 18)
    scene.canvas.tint(ellipsoid(space, (0, 66, 60), (5, 4, 75)), 44)


def paint_arches(scene: Scene, level: Field, marrow: Field) -> None:
    """Paint the arch of each vertebra: pedicles, laminae, spinous and transverse processes."""
    x, y = np.abs(scene.space.x), scene.space.y
    height = np.abs(level - 0.5) * VERTEBRA_PITCH_MM
    pedicle = common(np.maximum(np.abs(x - 14) - 4.5, np.abs(y - 62) - 10), height - 8)
    lamina = common(np.abs((y - 79) + 0.55 * x) - 4.5, x - 19, height - 13)
    spinous = common(x - 3.2 - 0.05 * np.abs(y - 96), np.abs(y - 92) - 15, height - 10)
    transverse = common(np.abs(y - 65 - 0.1 * x) - 4, np.abs(x - 26) - 14, height - 5)
    facet = common(np.hypot(x - 17, y - 74) - 7.5, 15 - height)
    arch = union(pedicle, lamina, spinous, transverse, facet, blend_mm=1.2)
    scene.canvas.paint(arch, 330)
    scene.canvas.tint(arch + 2.5, marrow)


def paint_ribs(scene: Scene) -> None:
    """Paint the lower ribs, which slope down around the flank, and the cartilage that rises to the breastbone."""
    for side in (-1, 1):
        for rib, top in enumerate(np.arange(26, 250, 29)):  # the twelfth first
            path = curve(rib_points(side, float(top), reach=min(0.8 + 0.75 * rib, 3.1)))
            bone = len(path) if rib < 2 else int(0.66 * len(path))
            scene.canvas.paint(tube(scene.space, path[bone - 1 :], 5.0), 95)
            scene.canvas.paint(tube(scene.space, path[:bone], 5.4), 400)
            scene.canvas.tint(tube(scene.space, path[:bone], 2.7), 150)


def rib_points(side: int, top: float, *, reach: float) -> NDArray[np.float64]:
    """Return points along a rib that starts at height `top` and goes `reach` radians around the trunk, (8, 3)."""
    turn = np.linspace(0, reach, 8)
    angle = turn - np.radians(72)  # 0 is straight out to the flank
    drop = 42 * np.minimum(turn, 2.2) - 70 * np.maximum(turn - 2.2, 0)
    waist = 1 + 0.035 * np.tanh((top - drop - 5) / 45)
    radius = np.where(np.sin(angle) > 0, 87, 77)
    return np.stack([side * 130 * waist * np.cos(angle), -radius * waist * np.sin(angle), top - drop], axis=-1)


def paint_chest(scene: Scene) -> None:
    """Paint what reaches down from the chest: the bases of the lungs with their vessels, and the heart."""
    space, canvas = scene.space, scene.canvas
    above = common(scene.cavity + 2, -scene.diaphragm)
    middle = common(np.abs(space.x - 4) - 24, -8 - space.y)
    lungs = carve(above, middle, ellipsoid(space, (0, 30, 0), (31, 42, 4000)))
    canvas.paint(common(scene.cavity, np.abs(scene.diaphragm) - 2.2), MUSCLE)
    canvas.paint(above, scene.texture("mediastinum", FAT, amplitude_hu=10))
    canvas.paint(lungs, scene.texture("lung", LUNG, amplitude_hu=22))
    speckle = scene.rough("lung vessels", amplitude_mm=1, length_mm=10)
    canvas.tint(common(lungs + 4, 1.9 - speckle), -120)
    heart = ellipsoid(space, (22, -34, 98), (58, 42, 34), turn=(0, 14, 20))
    heart = common(heart, -scene.diaphragm - 1)
    canvas.paint(heart - 3.5, FAT)
    canvas.paint(heart, scene.texture("heart", 105, amplitude_hu=8))
    canvas.tint(heart + 9, scene.patient.enhancement.veins)


# --- bowel, stomach and pancreas: unlabelled, and often as bright as an organ ----------------------------------------


def paint_bowel(scene: Scene) -> None:
    """Paint loops of small bowel, the colon around them and the thin vessels of the mesentery."""
    paint_mesentery(scene)
    paint_small_bowel(scene)
    colon = {
        "ascending": ((-92, 22, -125), (-95, 20, -75), (-88, 12, -42), (-70, -14, -38)),
        "transverse": ((-70, -14, -38), (-45, -56, -36), (5, -66, -44), (55, -58, -22), (84, -28, 6)),
        "descending": ((84, -28, 6), (98, 4, 2), (103, 24, -35), (100, 28, -75), (94, 24, -130)),
    }
    for part, points in colon.items():
        path = curve(points)
        widest = 12.5 if part == "descending" else 17.0
        haustra = widest + 2.5 * np.sin(np.arange(len(path)) * 0.28 + scene.patient.seed)
        paint_gut(scene, part + " colon", tube(scene.space, path, haustra), gas=0.25, contents_hu=26)


def paint_mesentery(scene: Scene) -> None:
    """Paint the fan of small vessels in the fat between the bowel loops."""
    rng = scene.rng("mesentery vessels")
    for _ in range(34):
        end = rng.uniform((-75, -68, -110), (80, -15, -5))
        start = np.array([4, -8, end[2] + rng.uniform(0, 25)])
        bend = (start + end) / 2 + rng.normal(0, 8, 3)
        path = curve([start, bend, end])
        scene.canvas.paint(tube(scene.space, path, np.linspace(2.2, 1.0, len(path))), 115)


def paint_small_bowel(scene: Scene) -> None:
    """Paint tangled loops of small bowel in the lower front of the cavity."""
    rng = scene.rng("small bowel")
    room = carve(scene.cavity + 3, ellipsoid(scene.space, (0, 45, 0), (52, 48, 4000)))
    for loop in range(20):
        centre = rng.uniform((-56, -58, -104), (88, 12, -12))
        turns = np.linspace(0, rng.uniform(3.2, 5.2), 7) + rng.uniform(0, 6)
        wander = np.cumsum(rng.normal(0, 7, (7, 3)), axis=0)
        points = centre + wander + 23 * np.stack([np.cos(turns), 0.7 * np.sin(turns), 0.5 * np.sin(turns)], axis=-1)
        loop_field = tube(scene.space, curve(points), rng.uniform(8.5, 12.5))
        contents = float(rng.choice([18, 34, 60, 190], p=[0.35, 0.35, 0.2, 0.1]))
        paint_gut(scene, f"loop {loop}", common(loop_field, room), gas=0.07, contents_hu=contents)


def paint_gut(scene: Scene, name: str, lumen: Field, *, gas: float, contents_hu: float) -> None:
    """Paint a piece of gut: an enhancing wall, contents, and gas that has risen to the front."""
    uneven = lumen + scene.rough(name, amplitude_mm=1.2, length_mm=16)
    scene.canvas.paint(common(uneven - 1.5, scene.cavity + 1), scene.patient.enhancement.bowel)
    inside = common(uneven + 1.2, scene.cavity + 3)
    scene.canvas.tint(inside, scene.texture(name, contents_hu, amplitude_hu=12))
    if not (inside < 0).any():
        return  # below the field of view
    bubbles = scene.rough(name + " gas", amplitude_mm=4, length_mm=20)
    depth = scene.space.y - np.quantile(scene.space.y[inside < 0], gas)
    scene.canvas.tint(common(inside + 1, bubbles + 0.35 * depth + 2), AIR + 60)


def stomach_field(scene: Scene) -> Field:
    """Return the stomach: from under the left dome forwards and across to the right, narrowing."""
    space = scene.jittered("stomach")
    path = curve([(58, 18, 50), (64, -8, 40), (62, -36, 18), (34, -54, -4), (2, -48, -12), (-22, -34, -4)])
    body = tube(space, path, np.interp(np.linspace(0, 1, len(path)), [0, 0.3, 0.6, 1], [31, 33, 23, 12]))
    body = body + scene.rough("stomach", amplitude_mm=2, length_mm=30)
    return common(body, scene.diaphragm + 4, scene.cavity + 3)


def paint_stomach(scene: Scene) -> None:
    """Paint the stomach with its level of air over fluid, the duodenum, and the pancreas behind it."""
    rng, stomach = scene.rng("stomach"), stomach_field(scene)
    duodenum = curve([(-22, -34, 0), (-42, -20, -2), (-46, 0, -28), (-34, 6, -55), (0, 0, -60), (34, -8, -42)])
    paint_gut(scene, "duodenum", tube(scene.space, duodenum, 10.5), gas=0.02, contents_hu=38)
    paint_pancreas(scene)
    scene.canvas.paint(stomach, scene.patient.enhancement.bowel + 6)
    meal = scene.texture("meal", float(rng.uniform(20, 75)), amplitude_hu=16, length_mm=12)
    scene.canvas.tint(stomach + 4.0, meal)
    level = float(np.quantile(scene.space.y[stomach < -3], rng.uniform(0.2, 0.4)))
    scene.canvas.tint(common(stomach + 4.5, scene.space.y - level), AIR + 15)


def paint_pancreas(scene: Scene) -> None:
    """Paint the pancreas, lobulated, from the duodenum to the hilum of the spleen."""
    space = scene.jittered("pancreas", shift_mm=3)
    path = curve([(-34, -8, -30), (-26, -18, -10), (-2, -24, 4), (26, -12, 12), (54, 14, 22), (76, 24, 30)])
    field = tube(space, path, np.interp(np.linspace(0, 1, len(path)), [0, 0.2, 0.5, 1], [13, 14, 9, 8]))
    field = field + scene.rough("pancreas", amplitude_mm=2.6, length_mm=12)
    scene.canvas.paint(field, scene.texture("pancreas", scene.patient.enhancement.liver - 12, amplitude_hu=16))


# --- vessels -----------------------------------------------------------------------------------------------------


def aorta_field(scene: Scene) -> Field:
    """Return the aorta: in front and left of the spine, narrowing downwards, never quite straight."""
    sway = scene.rng("aorta").normal(0, 2.0, (6, 2))
    heights = np.array([150, 95, 45, 0, -50, -140])
    path = curve([(9 + dx, 16 + dy, z) for (dx, dy), z in zip(sway, heights, strict=True)])
    return tube(scene.space, path, np.linspace(12.5, 9.0, len(path)))


def cava_field(scene: Scene) -> Field:
    """Return the inferior vena cava: right of the spine, bending forward into the liver; wider than deep."""
    path = curve([(-20, 19, -140), (-21, 18, -50), (-22, 13, 0), (-26, 2, 40), (-24, -8, 76), (-16, -18, 110)])
    space = scene.space.moved(scale=(1.25, 0.9, 1))
    return tube(space, path / (1.25, 0.9, 1), 10.5)


def paint_vessels(scene: Scene) -> None:
    """Paint the aorta with its branches, the vena cava with its tributaries, and the portal vein."""
    glow = scene.patient.enhancement
    veins = [
        ([(2, -16, -70), (0, -18, -30), (-2, -16, 0), (-14, -8, 18), (-40, -10, 34)], 7.0),
        ([(-2, -14, 2), (28, -4, 16), (60, 22, 28), (82, 28, 36)], 4.5),
        ([(-24, 14, -14), (-42, 20, -22), (-58, 28, -26)], 5.0),
        ([(-14, 8, -10), (6, -4, -8), (30, 12, -10), (56, 30, -14)], 5.0),
    ]
    arteries = [
        ([(9, 8, 12), (6, -8, 12), (-14, -16, 16), (-34, -14, 28)], 3.0),
        ([(9, 8, 14), (26, -2, 22), (60, 16, 30), (80, 24, 40)], 2.8),
        ([(9, 10, 0), (8, -8, -8), (8, -16, -40), (4, -20, -90)], 3.8),
        ([(8, 16, -8), (-20, 28, -14), (-56, 34, -26)], 2.8),
        ([(10, 16, -6), (32, 26, -8), (56, 34, -14)], 2.8),
    ]
    for points, radius in veins:
        scene.canvas.paint(tube(scene.space, curve(points), radius), glow.veins)
    scene.canvas.paint(cava_field(scene), scene.texture("cava", glow.veins - 12, amplitude_hu=9, length_mm=16))
    for points, radius in arteries:
        scene.canvas.paint(tube(scene.space, curve(points), radius), glow.aorta)
    aorta = aorta_field(scene)
    scene.canvas.paint(aorta, glow.aorta - 70, value=AORTA)  # the wall
    scene.canvas.tint(aorta + 1.6, glow.aorta)
    speck = scene.rough("calcification", amplitude_mm=1, length_mm=8)
    scene.canvas.tint(common(np.abs(aorta + 0.8) - 1.2, 2.2 - speck, scene.space.z - 20), 480)


# --- kidneys, spleen, liver --------------------------------------------------------------------------------------


def kidney_field(scene: Scene, side: int) -> Field:
    """Return a kidney without its hilum; `side` is -1 for the right one, which lies lower."""
    space = scene.jittered(f"kidney {side}", shift_mm=4)
    centre = (side * 63.0, 35.0, -20.0 if side > 0 else -32.0)
    bean = ellipsoid(space, centre, (28, 25, 54), turn=(-14, side * 9, side * -32), power=2.2)
    notch = ellipsoid(space, (side * 34, 24, centre[2] - 2), (18, 14, 21), turn=(0, 0, side * -32))
    bean = carve(bean, notch) + scene.rough(f"kidney {side}", amplitude_mm=1.2, length_mm=26)
    return solid(common(bean, scene.cavity + 4), scene.space)


def paint_renal_fat(scene: Scene) -> None:
    """Paint the fat that the kidneys lie in, over whatever bowel was there."""
    for side in (-1, 1):
        fascia = kidney_field(scene, side) - 7 - scene.rough(f"fascia {side}", amplitude_mm=3, length_mm=40)
        scene.canvas.paint(fascia, scene.texture(f"fascia {side}", FAT, amplitude_hu=9))


def paint_kidneys(scene: Scene) -> None:
    """Paint both kidneys: cortex, pyramids, and the sinus of fat and urine that opens towards the spine."""
    glow, space = scene.patient.enhancement, scene.space
    for side, value in ((-1, KIDNEY_RIGHT), (1, KIDNEY_LEFT)):
        name = f"kidney {side}"
        kidney = kidney_field(scene, side)
        middle = float(space.z[kidney < 0].mean())
        sinus = ellipsoid(space, (side * 52, 31, middle), (15, 7, 23), turn=(0, 0, side * -32))
        sinus = sinus + scene.rough(name + " sinus", amplitude_mm=3, length_mm=14)
        pelvis = ellipsoid(space, (side * 46, 28, middle - 4), (17, 5.5, 10), turn=(0, 0, side * -32))
        scene.canvas.paint(pelvis, WATER + 10)
        scene.canvas.paint(kidney, scene.texture(name, glow.cortex, amplitude_hu=6), value=value)
        pyramids = scene.rough(name + " pyramids", amplitude_mm=3.5, length_mm=20)
        scene.canvas.tint(common(kidney + 7, pyramids - 1), glow.medulla)
        scene.canvas.tint(common(sinus, kidney + 3), FAT + 45)
        scene.canvas.tint(common(pelvis, kidney), WATER + 10)
        paint_kidney_extras(scene, side, kidney, middle)


def paint_kidney_extras(scene: Scene, side: int, kidney: Field, middle: float) -> None:
    """Paint the ureter, the adrenal above the kidney, and on some patients a cyst that belongs to the kidney."""
    ureter = curve([(side * 44, 28, middle - 8), (side * 38, 26, middle - 35), (side * 34, 24, -140)])
    scene.canvas.paint(carve(tube(scene.space, ureter, 2.4), kidney), 30)
    x = side * scene.space.x
    limbs = common(np.abs(np.abs(x - 36) - 0.45 * (scene.space.y - 8)) - 2.4, np.abs(scene.space.y - 20) - 13)
    scene.canvas.paint(common(limbs, np.abs(scene.space.z - middle - 52) - 11), 78)
    if scene.rng(f"cyst {side}").random() < 0.4:
        cyst = ellipsoid(scene.space, (side * 72, 44, middle - 24), (10, 10, 10))
        scene.canvas.tint(common(cyst, kidney), WATER)


def spleen_field(scene: Scene) -> Field:
    """Return the spleen: a crescent between the diaphragm, the stomach and the left kidney."""
    space = scene.jittered("spleen")
    whole = ellipsoid(space, (93, 32, 28), (44, 62, 60), turn=(10, 0, -14))
    hollow = ellipsoid(space, (44, -8, 34), (42, 46, 62), turn=(0, 0, -16))
    crescent = carve(whole, hollow) + scene.rough("spleen", amplitude_mm=2.0, length_mm=30)
    crescent = carve(crescent, kidney_field(scene, 1) - 4, stomach_field(scene) - 1)
    return solid(common(crescent, scene.cavity + 4, scene.diaphragm + 4), scene.space)


def paint_spleen(scene: Scene) -> None:
    """Paint the spleen, and an accessory one nearby that is none of the labels."""
    glow = scene.patient.enhancement.spleen
    scene.canvas.paint(ellipsoid(scene.space, (72, -4, -2), (7, 7, 7)), glow)
    scene.canvas.paint(spleen_field(scene), scene.texture("spleen", glow, amplitude_hu=6, length_mm=13), value=SPLEEN)


def liver_field(scene: Scene, gallbladder: Field) -> Field:
    """Return the liver: it fills the space under the right dome and yields to all its neighbours."""
    space = scene.jittered("liver", scale=0.04)
    right = ellipsoid(space, (-76, -4, 10), (74, 80, 90), turn=(0, -14, 0), power=2.3)
    left = ellipsoid(space, (0, -44, 50), (66, 38, 29), turn=(0, 12, 12))
    caudate = ellipsoid(space, (-14, -8, 40), (17, 14, 26))
    viscera = ellipsoid(space, (24, 8, -40), (80, 72, 80), power=2.2)
    behind = ellipsoid(space, (-60, 74, -24), (50, 38, 78))
    porta = tube(space, curve([(4, -12, 16), (-24, -14, 28), (-50, -12, 34)]), 7.0)
    mass = union(carve(union(right, left, blend_mm=6), viscera, porta, behind), caudate, blend_mm=3)
    mass = mass + scene.rough("liver", amplitude_mm=3, length_mm=46)
    cleft = np.abs(space.x + 10 - 0.2 * space.y + scene.rough("cleft", amplitude_mm=3, length_mm=30))
    ligament = common(cleft - 3.5 + 0.16 * (space.y + 62), np.abs(space.y + 64) - 20, space.z - 44)
    spine = ellipsoid(space, (0, 50, 0), (44, 42, 4000))
    neighbours = (
        ligament,
        spine,
        stomach_field(scene) - 1,
        gallbladder - 1.5,
        kidney_field(scene, -1) - 4,
        cava_field(scene) + 1,
    )
    return solid(common(carve(mass, *neighbours), scene.cavity + 3.5, scene.diaphragm + 3.5), scene.space)


def paint_liver(scene: Scene) -> None:
    """Paint the liver with its veins, and the gallbladder in the fossa below it."""
    glow, space = scene.patient.enhancement, scene.jittered("gallbladder")
    gallbladder = ellipsoid(space, (-50, -46, -20), (14, 15, 27), turn=(24, 10, 0), power=1.9)
    liver = liver_field(scene, gallbladder)
    scene.canvas.paint(gallbladder, 62)
    scene.canvas.tint(gallbladder + 2.2, WATER + 4)
    scene.canvas.paint(liver, scene.texture("liver", glow.liver, amplitude_hu=6, length_mm=16), value=LIVER)
    for path, radius in liver_vessels(scene):
        scene.canvas.tint(common(tube(scene.space, path, radius), liver + 3), glow.veins)
    if scene.rng("liver cyst").random() < 0.6:
        x, y, z = scene.rng("liver cyst").uniform((-95, -30, 10), (-60, 30, 50))
        scene.canvas.tint(common(ellipsoid(scene.space, (x, y, z), (9, 8, 8)), liver + 2), WATER + 10)


def liver_vessels(scene: Scene) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return the portal branches, from the hilum outwards, and the hepatic veins, towards the vena cava."""
    rng = scene.rng("liver vessels")
    hepatic, portal = np.array([-24.0, -4, 66]), np.array([-44.0, -12, 32])
    ends = {
        "hepatic": [(-100, 20, 40), (-85, -35, 44), (-30, -60, 46), (25, -50, 56), (-90, 45, 15)],
        "portal": [(-105, 5, 25), (-95, 40, 0), (-95, -30, 5), (-80, 10, -35), (10, -45, 46), (-70, -50, 20)],
    }
    vessels = []
    for root, kind in ((hepatic, "hepatic"), (portal, "portal")):
        for tip in ends[kind]:
            end = np.array(tip) + rng.normal(0, 9, 3)
            bend = (root + end) / 2 + rng.normal(0, 6, 3)
            path = curve([root, bend, end])
            vessels.append((path, np.linspace(5.6, 1.6, len(path))))
            twig = curve([bend, (bend + end) / 2 + rng.normal(0, 5, 3), end + rng.normal(0, 16, 3)])
            vessels.append((twig, np.linspace(3.4, 1.2, len(twig))))
    return vessels


# --- the scanner -------------------------------------------------------------------------------------------------


def scan(scene: Scene) -> NDArray[np.int16]:
    """Return what a scanner makes of the body: blurred, shaded towards the centre, noisy, whole HU."""
    space, patient = scene.space, scene.patient
    image = gaussian_filter(scene.canvas.hu, (0.55, 0.55, 0.25))
    depth = np.clip(1 - np.hypot(space.x / 165, (space.y - 5) / 120) ** 2, 0, 1)
    shading = -9 * depth + 5 * noise(scene.rng("shading"), space, 260)
    image = image + np.where(image > -300, shading, 0)
    image = image + patient.noise_hu * (0.45 + 0.55 * depth) * grain(scene.rng("grain"), patient.shape)
    return np.asarray(np.rint(np.clip(image, -1024, 3071)), dtype=np.int16)


def grain(rng: np.random.Generator, shape: tuple[int, int, int]) -> Field:
    """Return CT noise of deviation 1: blotches, for filtered back-projection passes neither slow waves nor dots."""
    white = rng.standard_normal(shape)
    band = gaussian_filter(white, (0.55, 0.55, 0.2)) - gaussian_filter(white, (2.2, 2.2, 0.2))
    return np.asarray(band / band.std())
