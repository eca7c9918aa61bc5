"""Real anatomies to learn from: label maps, and scans with labels, of the data sets that allow it.

Owns the list of what may be learned. Sets kept for evaluation, and their anatomy in any other set, never become a
target, so that figures measured on them stay honest.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.errors import InputError
from amsam_cli.io import read_labels, read_volume
from amsam_cli.pretrain.synthesis import Anatomies

log = logging.getLogger(__name__)

T = TypeVar("T")

FIELD = (12, 96, 96)
CHANNELS = 12
HELD_OUT = 5
"""One subject in so many is never learned from; kinds that have fewer are all learned from."""

LABEL_MAPS: Mapping[str, tuple[str, ...]] = {
    "labelmaps_anatomy": ("brain_synthseg_*.nii.gz", "spine_verse*.nii.gz", "torso_totalseg_*.nii.gz"),
}
SCANS: Mapping[str, tuple[str, ...]] = {
    "totalseg_samples": ("ct_body_3mm*.nii.gz", "ct_aorta*.nii.gz", "mr_abd*.nii.gz"),
    "spinalcord_mr": ("*.nii.gz",),
    "misc_ct_samples": ("*.nii.gz",),
    "dsb2018_nuclei": ("*.png",),
}
# Hippocampus in FreeSurfer numbers; heart, pulmonary vein, atrial appendage and lung lobes in TotalSegmentator's CT
# numbers. In its MR numbers lungs and heart are others.
NEVER_TARGETS: Mapping[str, frozenset[int]] = {
    "brain_synthseg": frozenset({17, 53}),
    "torso_totalseg": frozenset({51, 53, 61, 10, 11, 12, 13, 14}),
    "ct_body": frozenset({51, 53, 61, 10, 11, 12, 13, 14}),
    "mr_abd": frozenset({10, 11, 22}),
}


@dataclass(frozen=True, slots=True, eq=False)
class Specimen:
    """One real anatomy.

    Attributes:
        labels: (D, H, W).
        targets: label value that may be a target -> (n, 3) some of its voxels.
        image: the scan in [0, 1], where there is one.
    """

    labels: NDArray[np.uint16]
    targets: Mapping[int, NDArray[np.int64]]
    image: NDArray[np.float32] | None


class Library:
    """Real anatomies, read once.

    Args:
        data: a folder of data sets, each with `labels` and perhaps `images`; sets that are absent are skipped.
        held_out: those that are kept for validation, one in `HELD_OUT` of each kind, instead of those to learn from.
    """

    def __init__(self, data: Path, *, held_out: bool = False) -> None:
        self.maps = _shelves(data, LABEL_MAPS, held_out, looks=False)
        self.scans = _shelves(data, SCANS, held_out, looks=True)
        if not self.maps and not self.scans and not held_out:
            message = f"No data set to learn from in '{data}': expected one of {[*LABEL_MAPS, *SCANS]}."
            raise InputError(message, "Leave --data out to learn from invented anatomies alone")
        log.info("learning from %d label maps and %d scans", *(sum(map(len, all_)) for all_ in (self.maps, self.scans)))

    def draw(self, count: int, generator: torch.Generator, *, scans: bool) -> Anatomies:
        """Return `count` random pieces of real anatomies: of scans with their own look, or of label maps."""
        shelves = self.scans if scans else self.maps
        # By the square root of how many there are: a lone spine counts for something beside twenty brains.
        weights = torch.tensor([len(shelf) for shelf in shelves]).sqrt()
        pieces = []
        for chosen in torch.multinomial(weights, count, replacement=True, generator=generator).tolist():
            shelf = shelves[chosen]
            specimen = shelf[int(torch.randint(len(shelf), (), generator=generator))]
            pieces.append(_piece(specimen, generator))
        fields, allowed, images = zip(*pieces, strict=True)
        image = torch.stack(images) if scans else None
        return Anatomies(torch.stack(fields), torch.stack(allowed), image)


def part_of(subjects: Sequence[T], *, held_out: bool) -> list[T]:
    """Return those of sorted subjects that are kept for validation, or those to learn from.

    >>> part_of([1, 2, 3, 4, 5, 6], held_out=True)
    [5]
    """
    return [subject for number, subject in enumerate(subjects, 1) if (number % HELD_OUT == 0) == held_out]


def _shelves(data: Path, sets: Mapping[str, tuple[str, ...]], held_out: bool, *, looks: bool) -> list[list[Specimen]]:
    """Return the anatomies of `sets` that are there, one list for each pattern that found any."""
    patterns = [(data / name / "labels", pattern) for name, several in sets.items() for pattern in several]
    found = [part_of(sorted(folder.glob(pattern)), held_out=held_out) for folder, pattern in patterns]
    return [[_specimen(path, _image_of(path) if looks else None) for path in paths] for paths in found if paths]


def _image_of(labels: Path) -> Path:
    return labels.parents[1] / "images" / labels.name


def _specimen(labels: Path, image: Path | None) -> Specimen:
    """Return one anatomy, at most about 160 voxels a side."""
    values = read_labels(labels, "axial").data
    never = next((banned for name, banned in NEVER_TARGETS.items() if labels.name.startswith(name)), frozenset())
    steps = tuple(slice(None, None, max(1, size // 160)) for size in values.shape)
    values = np.ascontiguousarray(values[steps])
    targets = {int(value): _some_voxels(values, value) for value in np.unique(values) if value and value not in never}
    picture = None
    if image is not None:
        raw = read_volume(image, "axial").data[0][steps]
        low, high = np.percentile(raw, (1, 99))
        picture = ((raw - low) / max(float(high - low), 1e-6)).clip(0, 1).astype(np.float32)
    return Specimen(values, targets, picture)


def _some_voxels(values: NDArray[np.uint16], value: int) -> NDArray[np.int64]:
    """Return at most a thousand voxels of a label, evenly over the volume."""
    places = np.argwhere(values == value)
    return places[:: max(1, len(places) // 1000)]


def _piece(specimen: Specimen, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return a box round a random target as fields (L, Z, G, G), allowed targets (L,), and its look (1, Z, G, G)."""
    ways = 1 if specimen.labels.shape[0] == 1 else 3  # a picture is seen from its front
    axes = [(0, 1, 2), (1, 0, 2), (2, 0, 1)][int(torch.randint(ways, (), generator=generator))]
    labels = specimen.labels.transpose(axes)
    target = list(specimen.targets)[int(torch.randint(len(specimen.targets), (), generator=generator))]
    places = specimen.targets[target]
    centre = places[int(torch.randint(len(places), (), generator=generator))][list(axes)]
    box = _box(labels.shape, centre, generator)
    cut = _resample(labels[box].astype(np.float32), "nearest").long()
    kept = _kept(cut, target)
    channels = torch.zeros(CHANNELS, *FIELD)
    for channel, value in enumerate(kept):
        channels[channel] = (cut == value).float()
    # A little blur makes borders smooth; voxels of labels left out fall to the background channel.
    channels[0] += 1 - channels.sum(dim=0).clamp(max=1)
    channels = F.avg_pool3d(channels[None], (1, 3, 3), stride=1, padding=(0, 1, 1))[0]
    allowed = torch.zeros(CHANNELS, dtype=torch.bool)
    allowed[: len(kept)] = torch.tensor([value in specimen.targets for value in kept])
    if specimen.image is None:
        return channels, allowed, torch.zeros(())
    return channels, allowed, _resample(specimen.image.transpose(axes)[box], "trilinear")[None]


def _box(shape: tuple[int, ...], centre: NDArray[np.int64], generator: torch.Generator) -> tuple[slice, ...]:
    """Return a box of random size round `centre`: square in the plane, some slices deep."""
    share = 0.45 + 0.55 * float(torch.rand((), generator=generator))
    side = max(24, int(share * max(shape[1:])))
    depth = max(4, int((0.15 + 0.35 * float(torch.rand((), generator=generator))) * shape[0]))
    box = []
    for axis, size in enumerate((depth, side, side)):
        length = min(size, shape[axis])
        jitter = int((float(torch.rand((), generator=generator)) - 0.5) * 0.6 * length)
        start = int(np.clip(centre[axis] + jitter - length // 2, 0, shape[axis] - length))
        box.append(slice(start, start + length))
    return tuple(box)


def _kept(cut: Tensor, target: int) -> list[int]:
    """Return background, the target and the largest other labels of a piece, as many as there are channels."""
    values, counts = np.unique(cut.numpy(), return_counts=True)
    order = [int(value) for value in values[np.argsort(-counts, kind="stable")]]
    others = [value for value in order if value not in (0, target)]
    return [0, target, *others][:CHANNELS]


def _resample(array: NDArray[np.float32], mode: str) -> Tensor:
    """Return a box of voxels on the field grid."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))[None, None]
    corners = None if mode == "nearest" else True
    return F.interpolate(tensor, size=FIELD, mode=mode, align_corners=corners)[0, 0]
