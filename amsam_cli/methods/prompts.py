"""Automatic spatial prompts: a box and a click for each slice and label, from a prior instead of a person.

AM-SAM finds its box with a detector fine-tuned elsewhere; with four slices to learn from, the prior of the supports
takes the detector's place. Slices where nothing is likely get no prompt at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.models.base import CLIP, Prompts
from amsam_cli.preprocess import Placement
from amsam_cli.volume import Volume

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
WORTHLESS = 0.25
"""Dice of the thresholded prior with the shots under which it says nothing."""
ENLARGE = 0.1
POINTS = 3
"""Two corners and a click."""


Asking = Literal["automatic", "box", "none"]
"""Whether a box and a click are given, the box alone (AM-SAM), or neither."""
Detection = tuple[tuple[float, float, float, float], float]
"""A box as (left, top, right, bottom) in voxels of its slice, and how sure the detector is, in [0, 1]."""
Detect = Callable[[Volume], Mapping[int, Sequence[Detection]]]
"""A detector in the place of the prior: one slice of a scan (or part of one) -> label value -> detections."""


@dataclass(frozen=True, slots=True)
class PromptRule:
    """How one label's prior becomes prompts, learned from the shots.

    Attributes:
        threshold: the prior above which the label is.
        smallest: least area of a component, as a share of the frame.
        clicks: whether the box comes with a click.
        is_silent: whether no prompt is given at all: the prior is of no use, or was not asked for.
    """

    threshold: float
    smallest: float
    is_silent: bool = False
    clicks: bool = True

    def asking(self, how: Asking) -> PromptRule:
        """Return the rule that asks so."""
        return replace(self, is_silent=self.is_silent or how == "none", clicks=how == "automatic")

    def logits(self, prior: Tensor) -> Tensor:
        """Return a prior in [0, 1] as logits of a mask: how far it lies above the threshold."""
        return (2 * CLIP * (prior.float() - self.threshold)).clamp(-CLIP, CLIP)


def learn_rule(prior: Tensor, masks: Tensor) -> PromptRule:
    """Return the rule whose thresholded prior overlaps the shots' masks best.

    `prior` (K, h, w) must be leave-one-out: no shot may have helped to make its own. `masks` (K, S, S), soft.
    """
    truth = F.interpolate(masks[:, None], size=prior.shape[-2:], mode="area")[:, 0]
    overlaps = [_dice(prior > threshold, truth > 0.5) for threshold in THRESHOLDS]
    areas = (masks > 0.5).float().mean(dim=(1, 2))
    shown = areas[areas > 0]
    smallest = float(shown.min()) * 0.1 if len(shown) else 0.0
    return PromptRule(THRESHOLDS[int(np.argmax(overlaps))], smallest, is_silent=max(overlaps) < WORTHLESS)


def _dice(prediction: Tensor, truth: Tensor) -> float:
    """Return the Dice of two bool stacks taken together; both empty: 0."""
    both = float((prediction & truth).sum())
    return 2 * both / max(1.0, float(prediction.sum() + truth.sum()))


def find_prompts(prior: Tensor, rule: PromptRule, image_size: int) -> Prompts:
    """Return a box and a click for each slice of `prior` (n, h, w), padding where nothing is likely or to be said.

    The box is the likeliest component's, a tenth larger; the click lies at its innermost pixel.
    """
    side = max(image_size // 4, prior.shape[-1])
    fine = F.interpolate(prior[:, None].float(), size=(side, side), mode="bilinear", align_corners=False)[:, 0]
    scale = image_size / fine.shape[-1]
    points = torch.zeros(len(prior), POINTS, 2)
    labels = torch.full((len(prior), POINTS), -1, dtype=torch.int32)
    for row, plane in enumerate(() if rule.is_silent else fine.cpu().numpy()):
        component = _likeliest(plane, rule)
        if component is not None:
            points[row] = torch.from_numpy(_box_and_click(component) * scale)
            labels[row] = torch.tensor([2, 3, 1 if rule.clicks else -1])
    return Prompts(points.to(prior.device), labels.to(prior.device))


def from_detections(found: Sequence[Sequence[Detection]], placement: Placement) -> Prompts:
    """Return the surest box of each slice (AM-SAM) in frame pixels, and padding where nothing was detected."""
    points = torch.zeros(len(found), POINTS, 2)
    labels = torch.full((len(found), POINTS), -1, dtype=torch.int32)
    for row, detections in enumerate(found):
        if detections:
            box, _ = max(detections, key=lambda each: each[1])
            points[row, :2] = torch.from_numpy(placement.to_frame(np.reshape(box, (2, 2))))
            labels[row, :2] = torch.tensor([2, 3])
    return Prompts(points, labels)


def _likeliest(prior: NDArray[np.float32], rule: PromptRule) -> NDArray[np.bool_] | None:
    """Return the connected component with the highest mean prior x sqrt(area), or None if all are too small."""
    components, count = ndimage.label(prior > rule.threshold)
    if not count:
        return None
    index = np.arange(1, count + 1)
    areas = ndimage.sum_labels(np.ones_like(prior), components, index)
    means = ndimage.mean(prior, components, index)
    scores = np.where(areas >= rule.smallest * prior.size, means * np.sqrt(areas), 0.0)
    best = int(np.argmax(scores))
    return np.asarray(components == best + 1) if scores[best] > 0 else None


def _box_and_click(component: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return box corners and innermost pixel of a component, (3, 2) xy in its own pixels."""
    rows, columns = np.nonzero(component)
    top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    pad_y, pad_x = ENLARGE * (bottom - top) / 2, ENLARGE * (right - left) / 2
    inside = ndimage.distance_transform_edt(np.pad(component, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    corners = [[left - pad_x, top - pad_y], [right + pad_x, bottom + pad_y], [x + 0.5, y + 0.5]]
    return np.clip(np.array(corners, dtype=np.float32), 0, component.shape[0] - 1)


def spoil(prompts: Prompts, generator: torch.Generator, *, drop: float = 0.3, jitter_px: float = 8.0) -> Prompts:
    """Return prompts as training should see them: moved a little, and some left out.

    A third of the rows lose their box and click, so that the learned prompt must work alone too (BLO-SAM).
    """
    moved = prompts.points + jitter_px * torch.randn(prompts.points.shape, generator=generator).to(prompts.points)
    dropped = torch.rand(len(prompts), 1, generator=generator).to(prompts.points) < drop
    labels = torch.where(dropped, torch.full_like(prompts.point_labels, -1), prompts.point_labels)
    return replace(prompts, points=moved, point_labels=labels)
