"""Plain SAM 2 with a person: a true box round each structure on its largest slice, carried through the scan.

Drives the official `SAM2VideoPredictor` as it comes: no support, no tuning. It sees the reference for the box, so it
stands for what a person with a mouse gets, not for an automatic method.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from sam2 import sam2_video_predictor
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor

from amsam_cli.bench.backbone import OnOurModel
from amsam_cli.bench.base import Query
from amsam_cli.bench.slices import Lesson
from amsam_cli.models.base import OnStep
from amsam_cli.models.precision import mixed_precision
from amsam_cli.models.sam2 import PIXEL_MEAN, PIXEL_STD
from amsam_cli.preprocess import Frames, Placement
from amsam_cli.report import Json
from amsam_cli.volume import LabelMap, Shot, Volume

VERSION = "1"
NOWHERE = -20.0
"""Logit of a label where nobody has drawn a box for it."""


@dataclass(frozen=True, eq=False)
class BoxOnOneSlice(OnOurModel):
    """SAM 2's video predictor, prompted once for each structure.

    Attributes:
        name: in tables.
    """

    name: str = "sam2-box"

    @property
    def version(self) -> str:
        """Of this file and of the weights."""
        return f"{VERSION}-{self.weights}"

    @property
    def settings(self) -> Mapping[str, Json]:
        """Whose box, on which slice, of which model."""
        return {
            "model": self.model_name,
            "prompt": "the reference's bounding box on the slice where the structure is largest",
            "propagation": "official SAM2VideoPredictor, forward and backward",
            "sees_the_reference": True,
        }

    @cached_property
    def _predictor(self) -> SAM2VideoPredictor:
        return predictor_of(self.loaded.network)

    def fit(self, shots: Sequence[Shot], *, seed: int, on_step: OnStep | None = None) -> Tracker:
        """Return the model as it is: of the shots only the names and the intensities count."""
        return Tracker(self._predictor, Lesson.of(shots, self._predictor.image_size))


@dataclass(frozen=True, slots=True, eq=False)
class Tracker:
    """The predictor and how frames are made for it."""

    predictor: SAM2VideoPredictor
    lesson: Lesson

    @torch.no_grad()
    def segment(self, query: Query) -> LabelMap:
        """Return what the box on one slice grows to, on the scan's own grid."""
        frames = Frames(query.volume, self.lesson.recipe)
        pixels = torch.cat([part for _, part in frames.batches(8)])
        masks = frames.masks(query.truth, list(self.lesson.names)) > 0.5
        tracks = [self._track(pixels, masks[:, column]) for column in range(len(self.lesson.names))]
        return _highest(torch.stack(tracks, dim=1), query.volume, self.lesson)

    def _track(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """Return logits (D, S, S) of one structure whose true mask is (D, S, S) bool."""
        logits = torch.full(mask.shape, NOWHERE)
        if not mask.any():
            return logits
        key = int(mask.flatten(1).sum(dim=1).argmax())
        device = self.predictor.device
        normal = (pixels - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
        with _given_frames(normal.to(device)), redirect_stderr(io.StringIO()), mixed_precision(device):
            state = self.predictor.init_state(video_path="")
            self.predictor.add_new_points_or_box(state, frame_idx=key, obj_id=1, box=_box(mask[key]))
            for reverse in (False, True):
                for index, _, found in self.predictor.propagate_in_video(state, key, reverse=reverse):
                    logits[index] = found[0, 0].float().cpu()
        return logits


def predictor_of(network: torch.nn.Module) -> SAM2VideoPredictor:
    """Return the official predictor over the weights of a loaded network, which it shares.

    The package builds predictors from its own configuration files only; the built-in architecture has none.
    """
    assert isinstance(network, SAM2Base)
    predictor = SAM2VideoPredictor.__new__(SAM2VideoPredictor)
    predictor.__dict__.update(network.__dict__)
    predictor.fill_hole_area = 0
    predictor.non_overlap_masks = False
    predictor.clear_non_cond_mem_around_input = False
    predictor.add_all_frames_to_correct_as_cond = False
    return predictor


@contextmanager
def _given_frames(frames: Tensor) -> Iterator[None]:
    """Let the predictor take frames (D, 3, S, S) from memory; it reads JPEG only, which would lose grey values."""
    original = sam2_video_predictor.load_video_frames
    height, width = frames.shape[-2:]
    sam2_video_predictor.load_video_frames = lambda **_: (frames, height, width)
    try:
        yield
    finally:
        sam2_video_predictor.load_video_frames = original


def _box(mask: Tensor) -> list[int]:
    """Return the bounding box of a mask (S, S) as x0, y0, x1, y1 in pixels."""
    rows, columns = np.flatnonzero(mask.any(dim=1)), np.flatnonzero(mask.any(dim=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def _highest(logits: Tensor, scan: Volume, lesson: Lesson) -> LabelMap:
    """Return the label of the highest logit (D, L, S, S) at each voxel, background where none is positive."""
    placement = Placement.of(scan.geometry, lesson.recipe.image_size)
    values = np.array([0, *lesson.names], dtype=np.uint16)
    with_background = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
    winners = [placement.restore(part[None]).argmax(dim=1)[0].numpy() for part in with_background]
    return LabelMap(values[np.stack(winners)], scan.geometry, dict(lesson.names))
