"""Ways of seeing every label on every slice, each slice for itself.

From automatic prompts alone (AM-SAM), or from the shots in memory (FSSAM's setting), where a slice's own prior may be
remembered beside them, refined and calibrated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amsam_cli.methods.calibrated_attention import calibrate
from amsam_cli.methods.losses import to_side
from amsam_cli.methods.prompts import find_prompts
from amsam_cli.methods.pseudo_prompt import Priors
from amsam_cli.methods.refinement import refine
from amsam_cli.models.base import CLIP, Bias, Decoded, Embedding, Memory, Prompts
from amsam_cli.segmentation.plan import Plan
from amsam_cli.segmentation.scene import ROWS, Scene, batched


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One way of seeing L labels on D slices, on the CPU.

    Attributes:
        logits: (D, L, s, s) float16, within 10 of zero.
        score: (D, L) predicted IoU in [0, 1]; 0 where it did not look.
        presence: (D, L) probability that the label is there.
        weight: (D, L) how much it counts beside other looks, whatever its kind.
    """

    logits: Tensor
    score: Tensor
    presence: Tensor
    weight: Tensor

    @classmethod
    def blank(cls, depth: int, labels: int, side: int) -> Look:
        """Return a look that has seen nothing yet."""
        logits = torch.full((depth, labels, side, side), -CLIP, dtype=torch.float16)
        score, presence, weight = (torch.zeros(depth, labels) for _ in range(3))
        return cls(logits, score, presence, weight)

    def put(self, slices: Tensor, labels: Tensor, answer: Decoded, weight: Tensor | float = 1.0) -> None:
        """Fill in what was seen of some (slice, label) rows."""
        self.logits[slices, labels] = answer.logits[:, 0].clamp(-CLIP, CLIP).to("cpu", torch.float16)
        self.score[slices, labels] = answer.score.clamp(0, 1).cpu()
        self.presence[slices, labels] = answer.presence.sigmoid().cpu()
        self.weight[slices, labels] = torch.as_tensor(weight, dtype=torch.float32).expand(len(slices))


def look_at_prior(scene: Scene, prior: Priors) -> Look:
    """Return the thresholded prior as a look: logits are how far it lies above the threshold."""
    side = max(scene.model.image_size // 4, prior.discriminative.shape[-1])
    look = Look.blank(scene.depth, scene.labels, side)
    allowed = scene.allowed.float()
    for some in batched(torch.arange(scene.depth), ROWS):
        resized = to_side(prior.discriminative[some].float(), side)
        above = [rule.logits(resized[:, label]) for label, rule in enumerate(scene.sight.rules)]
        fine = torch.stack(above, dim=1).cpu()
        sure, presence = _certainty(fine)
        look.logits[some] = fine.to(torch.float16)
        look.score[some], look.presence[some] = sure * allowed[some], presence * allowed[some]
    return replace(look, weight=allowed)


def _certainty(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return how sure logits (n, L, s, s) are of what they show, and whether they show anything, (n, L) each.

    Sure of a mask is its mean probability, sure of none the highest probability that is not reached.
    """
    likely = logits.sigmoid().flatten(2)
    inside = (likely > 0.5).float()
    area = inside.sum(dim=2)
    mean_inside = (likely * inside).sum(dim=2) / area.clamp_min(1)
    peak = likely.amax(dim=2)
    return torch.where(area > 0, mean_inside, 1 - peak), peak


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """The automatic prompts of L labels on D slices: points (D, L, N, 2) and their kinds (D, L, N), as in `Prompts`."""

    points: Tensor
    kinds: Tensor


def automatic_prompts(scene: Scene, prior: Priors) -> Asked:
    """Return a box and a click for every label on each slice, from a detector or from the prior."""
    found = scene.detected or [
        Prompts.cat(
            [find_prompts(some, rule, scene.model.image_size) for some in batched(prior.discriminative[:, label], ROWS)]
        )
        for label, rule in enumerate(scene.sight.rules)
    ]
    return Asked(
        torch.stack([each.points for each in found], dim=1), torch.stack([each.point_labels for each in found], dim=1)
    )


def look_at_slices(scene: Scene, asked: Asked) -> Look:
    """Return every label decoded on each slice alone, from its automatic prompts and its learned one (AM-SAM)."""
    look = Look.blank(scene.depth, scene.labels, scene.model.image_size // 4)
    for slices, labels in scene.chunks():
        prompts = scene.asking(Prompts(asked.points[slices, labels], asked.kinds[slices, labels]), labels)
        look.put(slices, labels, scene.model.decode(scene.slices.rows(slices), prompts))
    return look


def look_at_supports(scene: Scene, prior: Priors, plan: Plan) -> Look:
    """Return every label decoded on each slice from the shots in memory (FSSAM)."""
    look = Look.blank(scene.depth, scene.labels, scene.memory_model.image_size // 4)
    for slices, labels in scene.chunks():
        bank = [*scene.supports(slices, labels), *pseudo_memories(scene, prior, slices, labels, plan)]
        look.put(slices, labels, recall(scene, slices, labels, bank, plan))
    return look


def recall(scene: Scene, slices: Tensor, labels: Tensor, bank: list[Memory], plan: Plan) -> Decoded:
    """Return some (slice, label) rows decoded from a bank of memories."""
    has_own = any(memory.is_own for memory in bank)
    bias = calibrate if plan.calibrates and has_own else None
    return recall_in(scene, scene.remembered.rows(slices), labels, bank, bias=bias)


def recall_in(
    scene: Scene, embedding: Embedding, labels: Tensor, bank: list[Memory], *, bias: Bias | None = None
) -> Decoded:
    """Return labels decoded in frames of any scan, row by row, from a bank of memories."""
    asked = Prompts.empty(len(labels), device=embedding.features.device)
    if scene.memory_model is scene.model:  # else it has not learned how to ask
        asked = scene.asking(asked, labels)
    return scene.memory_model.recall(embedding, bank, asked, bias=bias)


def pseudo_memories(scene: Scene, prior: Priors, slices: Tensor, labels: Tensor, plan: Plan) -> list[Memory]:
    """Return each row's memory of its own prior, refined if the plan says so (PPG and IMR of FSSAM); none without."""
    if not plan.pseudo:
        return []
    embedding, model = scene.remembered.rows(slices), scene.memory_model

    def remembered(part: Tensor) -> Memory:
        soft = to_side(part[slices, labels][:, None].float().to(model.device), model.image_size)
        return model.remember(embedding, soft)

    clean = remembered(prior.discriminative)
    if plan.refines:
        clean = refine(remembered(prior.foreground), clean, scene.supports(slices, labels))
    return [clean.own(distance=0)]
