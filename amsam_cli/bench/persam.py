"""PerSAM's way without training, on the features of any of our models: similar places become clicks, clicks a mask.

After Zhang et al. 2024 (Personalize Segment Anything Model with One Shot): target embedding of the supports, the most
and the least similar place as positive and negative click, then the mask's own box as a second and third prompt. Its
two changes inside SAM's decoder (target-guided attention, target-semantic prompting) are not part of the protocol that
our models share, and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.bench.backbone import OnOurModel
from amsam_cli.bench.base import Query
from amsam_cli.bench.slices import Lesson
from amsam_cli.models.base import Decoded, Embedding, OnStep, PromptableModel, Prompts
from amsam_cli.report import Json
from amsam_cli.volume import LabelMap, Shot

VERSION = "1"
REFINEMENTS = 2
ALIKE = 0.9
"""A slice whose best cosine is below this share of what the supports reach among themselves lacks the structure."""


@dataclass(frozen=True, eq=False)
class PrototypePrompts(OnOurModel):
    """Clicks from similarity to the supports' mean feature.

    Attributes:
        name: in tables.
    """

    name: str = "persam"

    @property
    def version(self) -> str:
        """Of this file and of the weights."""
        return f"{VERSION}-{self.weights}"

    @property
    def settings(self) -> Mapping[str, Json]:
        """Prompts and refinement."""
        return {
            "model": self.model_name,
            "prompts": "most and least similar place; then the box of the mask found, twice",
            "absent": f"where the best cosine is below {ALIKE} of the lowest among supports",
            "left_out": "target-guided attention, target-semantic prompting",
        }

    @torch.no_grad()
    def fit(self, shots: Sequence[Shot], *, seed: int, on_step: OnStep | None = None) -> Matcher:
        """Return the target embedding of each label; nothing is trained."""
        lesson = Lesson.of(shots, self.loaded.image_size)
        pixels = lesson.pixels.expand(-1, 3, -1, -1).to(self.loaded.device)
        features = F.normalize(self.loaded.encode(pixels).features.float(), dim=1)
        inside = [lesson.classes.to(features) == number + 1 for number in range(len(lesson.names))]
        targets, floors = zip(*(_target(features, mask.float()) for mask in inside), strict=True)
        return Matcher(self.loaded, lesson, torch.stack(targets), floors)


def _target(features: Tensor, masks: Tensor) -> tuple[Tensor, float]:
    """Return the mean direction (C,) under masks (K, 1, S, S), and the best cosine of the support least like it."""
    small = F.interpolate(masks, size=features.shape[-2:], mode="area")
    shown = small.flatten(1).sum(dim=1) > 0
    target = F.normalize((features * small).sum(dim=(0, 2, 3)), dim=0)
    best = torch.einsum("kchw,c->khw", features[shown], target).flatten(1).amax(dim=1)
    return target, float(best.min())


@dataclass(frozen=True, slots=True, eq=False)
class Matcher:
    """Target embeddings (L, C), how alike supports are to them, and the model that turns clicks into masks."""

    model: PromptableModel
    lesson: Lesson
    targets: Tensor
    floors: Sequence[float]

    @torch.no_grad()
    def segment(self, query: Query) -> LabelMap:
        """Return the label whose mask is surest at each voxel of the scan's own grid."""
        return self.lesson.read(query.volume, self._logits)

    def _logits(self, pixels: Tensor) -> Tensor:
        """Return logits (n, 1 + L, s, s) of frames, background at 0."""
        embedding = self.model.encode(pixels.expand(-1, 3, -1, -1).to(self.model.device))
        likeness = torch.einsum("nchw,lc->nlhw", F.normalize(embedding.features.float(), dim=1), self.targets)
        found = [self._decode(embedding, likeness[:, label], self.floors[label]) for label in range(len(self.targets))]
        return torch.cat([torch.zeros_like(found[0]), *found], dim=1)

    def _decode(self, embedding: Embedding, likeness: Tensor, floor: float) -> Tensor:
        """Return one label's logits (n, 1, s, s) from its likeness (n, h, w)."""
        clicks = _clicks(likeness, self.model.image_size)
        decoded = self.model.decode(embedding, clicks)
        for _ in range(REFINEMENTS):
            decoded = self.model.decode(embedding, _with_boxes(clicks, decoded, self.model.image_size))
        alike = likeness.flatten(1).amax(dim=1) >= ALIKE * floor
        return torch.where(alike[:, None, None, None], decoded.logits, -decoded.logits.abs() - 1)


def _clicks(likeness: Tensor, side: int) -> Prompts:
    """Return a positive click on the most similar place and a negative one on the least, in frame pixels."""
    count, height, width = likeness.shape
    flat = likeness.flatten(1)
    places = torch.stack([flat.argmax(dim=1), flat.argmin(dim=1)], dim=1)
    points = torch.stack([places % width, places // width], dim=2).float() + 0.5
    points = points * torch.tensor([side / width, side / height], device=points.device)
    labels = torch.tensor([1, 0], dtype=torch.int32, device=points.device).expand(count, -1)
    return Prompts(points, labels)


def _with_boxes(clicks: Prompts, decoded: Decoded, side: int) -> Prompts:
    """Return the clicks with the box of each mask found before them; a row without mask keeps its clicks alone."""
    masks = decoded.logits[:, 0] > 0
    boxes, labels = [], []
    for mask in masks:
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        is_there = len(rows) > 0
        ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if is_there else [0, 0, 0, 0]
        boxes.append([float(end) * side / mask.shape[-1] for end in ends])
        labels.append([2, 3] if is_there else [-1, -1])
    corners = torch.tensor(boxes, device=clicks.points.device).view(-1, 2, 2)
    kinds = torch.tensor(labels, dtype=torch.int32, device=clicks.points.device)
    return Prompts(torch.cat([corners, clicks.points], dim=1), torch.cat([kinds, clicks.point_labels], dim=1))
