"""Episodes from folders of labelled images: a class, some patients that show it, and others to find it in.

The published training of few-shot segmenters: what is asked for at test time is a class that was never among these.
Letters as in `synthesis`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.errors import InputError
from amsam_cli.io import find_shots
from amsam_cli.io.shots import Candidate
from amsam_cli.preprocess import PERCENTILES, Frames, Recipe
from amsam_cli.pretrain.anatomy import uniform
from amsam_cli.pretrain.sources import part_of
from amsam_cli.pretrain.synthesis import Episodes, Plan

SMALLEST = 64
"""Pixels under which a slice shows too little of a class."""
KEPT = 512
"""Frames that are kept in memory once read."""
TURN = 10.0
SCALE = (0.9, 1.1)

Patients = Mapping[str, Sequence[Candidate]]


class Classes:
    """The classes of some data sets, each with its slices by patient.

    Args:
        data: a folder of data sets, each with `labels` and `images`, or one such set.
        held_out: the patients that are kept for validation, instead of those to learn from.

    Raises:
        InputError: no set, a file that cannot be used, or no class that two patients show.
    """

    def __init__(self, data: Path, *, held_out: bool = False) -> None:
        found: dict[tuple[str, int], dict[str, list[Candidate]]] = {}
        for place in _sets(data):
            candidates = find_shots(place / "labels", place / "images")
            patients = sorted({candidate.pair.patient for candidate in candidates})
            chosen = part_of(patients, held_out=held_out)
            for candidate in candidates:
                for value, area in candidate.areas.items():
                    if area >= SMALLEST and candidate.pair.patient in chosen:
                        slices = found.setdefault((place.name, value), {})
                        slices.setdefault(candidate.pair.patient, []).append(candidate)
        self._classes = {key: patients for key, patients in found.items() if len(patients) > 1}
        if not self._classes:
            kept = " held out" if held_out else ""
            raise InputError(
                f"'{data}' has no class that two{kept} patients show.", "Give sets with more labelled patients."
            )
        self._frame = lru_cache(KEPT)(_read)

    def __len__(self) -> int:
        return len(self._classes)

    def draw(self, plan: Plan, generator: torch.Generator) -> Episodes:
        """Return episodes whose frames come from different patients, as far as there are; turned, scaled, mirrored.

        Raises:
            InputError: an image cannot be read.
        """
        classes = list(self._classes.items())
        pixels, masks = [], []
        for chosen in torch.randint(len(classes), (plan.episodes,), generator=generator).tolist():
            (_, value), patients = classes[chosen]
            read = [self._frame(shot, value, plan.image_size) for shot in _some(patients, plan.frames, generator)]
            pixels.append(torch.stack([image for image, _ in read]))
            masks.append(torch.stack([mask for _, mask in read]))
        moved = _move(torch.cat([torch.stack(pixels), torch.stack(masks)], dim=2), generator)
        found = (moved[:, :, 3:] > 0.5).float()
        return Episodes(moved[:, :, :3], found, found[:, :, 0].to(torch.uint8), plan.supports, consecutive=False)


def _sets(data: Path) -> list[Path]:
    """Return the sets in `data`, or `data` itself."""
    found = [place for place in (data, *sorted(data.glob("*"))) if {"labels", "images"} <= _names(place)]
    if not found:
        raise InputError(f"'{data}' holds no set with 'labels' and 'images'.", "Put labelled images there.")
    return found


def _names(place: Path) -> set[str]:
    return {inside.name for inside in place.iterdir() if inside.is_dir()} if place.is_dir() else set()


def _some(patients: Patients, count: int, generator: torch.Generator) -> list[Candidate]:
    """Return one slice of each of `count` patients; of some of them again where there are fewer."""
    names = list(patients)
    order = [names[index] for index in torch.randperm(len(names), generator=generator).tolist()]
    chosen = [order[number % len(order)] for number in range(count)]
    return [patients[name][int(torch.randint(len(patients[name]), (), generator=generator))] for name in chosen]


def _read(candidate: Candidate, value: int, side: int) -> tuple[Tensor, Tensor]:
    """Return a slice as a frame (3, S, S), and the mask (1, S, S) of one label in it."""
    shot = candidate.read()
    channels = 3 if shot.volume.data.shape[0] > 1 else 1
    recipe = Recipe(candidate.plane, None, PERCENTILES, side, channels)
    frames = Frames(shot.volume, recipe, scan=shot.scan())
    return frames.pixels(0, 1)[0], frames.masks(shot.labels, [value])[0]


def _move(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Return frames (B, T, C, S, S) each turned by up to 10 degrees, scaled by a tenth and perhaps mirrored."""
    batch, count = frames.shape[:2]
    angle = torch.deg2rad(uniform((batch * count,), -TURN, TURN, generator))
    scale = uniform((batch * count,), *SCALE, generator)
    mirror = torch.where(torch.rand(batch * count, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin, nought = angle.cos() / scale, angle.sin() / scale, torch.zeros(batch * count)
    rows = [torch.stack([mirror * cos, -sin, nought], dim=1), torch.stack([mirror * sin, cos, nought], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(frames.flatten(0, 1).shape), align_corners=False)
    return F.grid_sample(frames.flatten(0, 1), grid, align_corners=False).view_as(frames)
