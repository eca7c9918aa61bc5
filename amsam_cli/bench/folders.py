"""Folders of pictures with masks, as the AM-SAM sets come: body, skin, teeth, polyps, one object each.

`SET/images` and `SET/masks` (or `labels`) with the same names, or several such sets in one folder. What is not black in
a mask is the object. Draws of a few pictures to learn from, all others to be segmented, become splits of the few-shot
benchmark, which runs them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from amsam_cli.bench.splits import SEEDS, DataSet, Split, label_folder
from amsam_cli.errors import InputError

SHOTS = (4, 8, 16)
"""As the AM-SAM paper learns."""
FEWEST_QUERIES = 1


def find_picture_sets(data: Path) -> list[Path]:
    """Return the folders in `data`, or `data` itself, that hold pictures and masks.

    Raises:
        InputError: there is none.
    """
    places = [data, *sorted(path for path in data.iterdir() if path.is_dir())] if data.is_dir() else []
    found = [place for place in places if (place / "images").is_dir() and label_folder(place).is_dir()]
    if not found:
        raise InputError(
            f"'{data}' has no folders 'images' and 'masks'; expected them in it or in the folders inside.",
            "Put pictures and masks of the same names there.",
        )
    return found


def draw_pictures(
    folder: Path, *, shots: Sequence[int] = SHOTS, seeds: Sequence[int] = SEEDS, queries: int | None = None
) -> DataSet:
    """Return a set of pictures with draws: the first K to learn from, behind the largest K `queries` to segment.

    Every shot count is asked for the same pictures; equal files and seeds draw equal ones.

    Args:
        folder: with pictures and masks.
        shots: the shot counts wanted.
        seeds: of the draws.
        queries: how many pictures to segment; None takes all that are left.

    Raises:
        InputError: too few pictures.
    """
    from amsam_cli.io import find_pairs

    names = sorted(pair.image.name for pair in find_pairs(label_folder(folder), folder / "images"))
    most, name = max(shots), folder.resolve().name
    if len(names) < most + FEWEST_QUERIES:
        raise InputError(
            f"'{folder}' holds {len(names)} pictures with masks; expected more than {most}.", "Ask for fewer shots."
        )
    splits = []
    for seed in seeds:
        order = list(names)
        random.Random(f"{name} {seed}").shuffle(order)
        asked = order[most : None if queries is None else most + queries]
        splits.append(Split(seed, tuple(order[:most]), tuple(sorted(asked))))
    return DataSet(name, {1: "object"}, merged=True, plane="axial", splits=tuple(splits))
