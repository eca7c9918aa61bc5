"""Carrying masks through a volume: amsam's driver against SAM 2's own video predictor.

Same weights (SAM 2.1 tiny, random), same frames, same masks on the first slice of every label. Equal work means every
label on every slice, one direction, the official memory rules; then the two must find the same masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.adapter import Sight, SupportBank
from amsam_cli.bench.speed import Work
from amsam_cli.methods.prompts import PromptRule
from amsam_cli.methods.pseudo_prompt import Priors, Prototypes
from amsam_cli.models.base import CLIP, silent
from amsam_cli.models.precision import chosen_precision
from amsam_cli.models.sam2 import CONFIGS, PIXEL_MEAN, PIXEL_STD, Sam2, build_network
from amsam_cli.preprocess import Frames, Placement, Recipe
from amsam_cli.segmentation.features import Features
from amsam_cli.segmentation.looks import Look
from amsam_cli.segmentation.plan import Plan
from amsam_cli.segmentation.scene import Place, Scene
from amsam_cli.segmentation.tracking import track
from amsam_cli.volume import Geometry, Volume

ARCHITECTURE = "sam2.1-tiny"
SHARE = 3
"""Where each label's extent is known beforehand, it is on one slice in so many."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A volume of noisy discs to carry masks through.

    Attributes:
        slices: D.
        labels: L.
        image_size: S, frame side in pixels.
        partial: whether each label is on a third of the slices, which the driver is told beforehand.
    """

    slices: int
    labels: int
    image_size: int = 512
    partial: bool = False

    @cached_property
    def volume(self) -> Volume:
        """The scan: a disc for each label, drifting slowly, in noise."""
        chance = np.random.default_rng(0)
        axis = np.arange(self.image_size)
        data = chance.normal(0.3, 0.05, (self.slices, self.image_size, self.image_size)).astype(np.float32)
        for label in range(self.labels):
            for index in range(self.slices):
                y, x = self.centre(label, index)
                disc = (axis[:, None] - y) ** 2 + (axis[None] - x) ** 2 < self.radius**2
                data[index] += disc * (0.2 + 0.4 * (label % 3) / 3)
        shape = (self.slices, self.image_size, self.image_size)
        return Volume(data[None], Geometry(shape, np.eye(4)), (0.0, 1.0))

    @property
    def radius(self) -> float:
        """Of every disc, in pixels."""
        return self.image_size / 12

    def centre(self, label: int, index: int) -> tuple[float, float]:
        """Return where a label's disc is on a slice."""
        angle = 2 * np.pi * label / max(1, self.labels)
        distance = self.image_size / 3.5
        middle = self.image_size / 2 + index / self.slices * self.radius
        return float(middle + distance * np.sin(angle)), float(middle + distance * np.cos(angle))

    def extent(self, label: int) -> tuple[int, int]:
        """Return the first and last slice a label is on."""
        if not self.partial:
            return 0, self.slices - 1
        length = max(1, self.slices // SHARE)
        first = (self.slices - length) * label // max(1, self.labels - 1) if self.labels > 1 else 0
        return first, first + length - 1

    def mask(self, label: int) -> Tensor:
        """Return the label's mask on its first slice, (S, S) bool."""
        y, x = self.centre(label, self.extent(label)[0])
        axis = torch.arange(self.image_size)
        return (axis[:, None] - y) ** 2 + (axis[None] - x) ** 2 < self.radius**2

    @property
    def recipe(self) -> Recipe:
        """How its slices become frames."""
        return Recipe("axial", (0.0, 1.0), (0.5, 99.5), self.image_size, 1)


def weights(image_size: int) -> Sam2:
    """Return SAM 2.1 tiny with the same random weights every time, and a presence score that is always positive.

    Random weights would find every other object absent, which is no work to compare.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(ARCHITECTURE)
    torch.nn.init.constant_(network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 10.0)
    return Sam2(network, ARCHITECTURE, image_size)


@torch.no_grad()
def carry(model: Sam2, trial: Trial) -> Tensor:
    """Return the masks amsam's driver finds, (D, L, s, s) bool."""
    scene = _scene(model, trial)
    source = Look.blank(trial.slices, trial.labels, trial.image_size // 4)
    keys = []
    for label in range(trial.labels):
        first = trial.extent(label)[0]
        small = F.interpolate(trial.mask(label)[None, None].float(), scale_factor=0.25, mode="bilinear", antialias=True)
        source.logits[first, label] = (2 * CLIP * small[0, 0] - CLIP).half()
        keys.append([first])
    nothing = torch.zeros(0)
    plan = Plan(recalls_supports=False, is_careful=False)
    return track(scene, source, keys, Priors(nothing, nothing), plan)["forward"].logits > 0


def _scene(model: Sam2, trial: Trial) -> Scene:
    """Return a scene without shots: nothing but the volume is remembered."""
    frames = Frames(trial.volume, trial.recipe)
    features = Features.encode(model, frames, limit_gib=None, on_step=silent)
    labels, none = trial.labels, torch.zeros(0, trial.labels, 1)
    bank = SupportBank(none, none, none, Prototypes(none, none, torch.zeros(0, trial.labels, dtype=torch.bool)))
    sight = Sight((PromptRule(0.5, 0.0),) * labels, (), (), bank)
    allowed = torch.zeros(trial.slices, labels, dtype=torch.bool)
    for label in range(labels):
        first, last = trial.extent(label)
        allowed[first : last + 1, label] = True
    placement = Placement.of(trial.volume.geometry, trial.image_size)
    dense = model.no_prompt().expand(labels, -1)
    return Scene(Place.whole(trial.volume), placement, features, features, sight, dense, allowed)


@dataclass(frozen=True, slots=True, eq=False)
class Official:
    """SAM 2's video predictor with the weights of a model, as its authors ship it.

    Of its settings only two differ from the published ones: the frame side, and one mask token throughout, which is
    what amsam decodes with.
    """

    predictor: Any

    @classmethod
    def of(cls, model: Sam2) -> Official:
        """Return the predictor of the same weights."""
        from sam2.build_sam import build_sam2_video_predictor

        changed = [f"++model.image_size={model.image_size}", "++model.multimask_output_in_sam=false"]
        predictor = build_sam2_video_predictor(
            CONFIGS[ARCHITECTURE], device="cpu", apply_postprocessing=False, hydra_overrides_extra=changed
        )
        predictor.load_state_dict(model.network.state_dict())
        return cls(predictor)

    @torch.no_grad()
    def carry(self, trial: Trial) -> Tensor:
        """Return the masks the predictor finds, (D, L, s, s) bool; every label on every slice."""
        frames = Frames(trial.volume, trial.recipe).pixels(0, trial.slices)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
        side = trial.image_size // 4
        found = torch.zeros(trial.slices, trial.labels, side, side, dtype=torch.bool)
        with _frames_instead_of_files((frames - mean) / std):
            state = self.predictor.init_state("frames of a volume")
        for label in range(trial.labels):
            first = trial.extent(label)[0]
            self.predictor.add_new_mask(state, first, label, trial.mask(label))
        for _ in self.predictor.propagate_in_video(state, start_frame_idx=0):
            pass
        for label, outputs in state["output_dict_per_obj"].items():
            for index, output in (outputs["cond_frame_outputs"] | outputs["non_cond_frame_outputs"]).items():
                found[index, label] = output["pred_masks"][0, 0] > 0
        return found


@contextmanager
def _frames_instead_of_files(frames: Tensor) -> Iterator[None]:
    """Let the predictor take frames (D, 3, S, S) where it would read a folder of pictures."""
    from sam2 import sam2_video_predictor

    original = sam2_video_predictor.load_video_frames
    side = int(frames.shape[-1])
    sam2_video_predictor.load_video_frames = lambda *_, **__: (frames, side, side)
    try:
        yield
    finally:
        sam2_video_predictor.load_video_frames = original


def propagation_works(
    *, slices: int = 16, labels: Sequence[int] = (1, 5), image_size: int = 512, precisions: Sequence[str] = ("fp32",)
) -> list[Work]:
    """Return the predictor, then our driver at equal work and with known extents, by number of labels and precision.

    The encoder alone is the floor: neither can be faster. Seconds are per slice.
    """
    works = []
    for count, precision in product(labels, precisions):
        group = f"propagation, {count} label{'s' if count > 1 else ''}, {slices} slices, {image_size} px, {precision}"
        whole, part = Trial(slices, count, image_size), Trial(slices, count, image_size, partial=True)
        works += [
            Work(name, group, _in_precision(prepare, is_mixed=precision == "bf16"), per=slices)
            for name, prepare in (
                ("SAM2VideoPredictor", _official(whole)),
                ("amsam, equal work", _ours(whole)),
                (f"amsam, extents of 1/{SHARE} given", _ours(part)),
                ("encoder alone", _floor(whole)),
            )
        ]
    return works


Run = Callable[[], object]


def _in_precision(prepare: Callable[[], Run], *, is_mixed: bool) -> Callable[[], Run]:
    """Return what is prepared, run in one arithmetic by both drivers: ours choose by processor, theirs by autocast."""

    def prepared() -> Run:
        run = prepare()

        def timed() -> None:
            with chosen_precision(is_mixed=is_mixed), torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
                run()

        return timed

    return prepared


def _official(trial: Trial) -> Callable[[], Run]:
    def prepare() -> Run:
        official = Official.of(weights(trial.image_size))
        assert trial.volume
        return lambda: official.carry(trial)

    return prepare


def _ours(trial: Trial) -> Callable[[], Run]:
    def prepare() -> Run:
        model = weights(trial.image_size)
        assert trial.volume
        return lambda: carry(model, trial)

    return prepare


def _floor(trial: Trial) -> Callable[[], Run]:
    def prepare() -> Run:
        model, frames = weights(trial.image_size), Frames(trial.volume, trial.recipe)
        return lambda: Features.encode(model, frames, limit_gib=None, on_step=silent)

    return prepare
