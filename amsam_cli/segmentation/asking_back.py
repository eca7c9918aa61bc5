"""Asking back: the shots segmented from a result, as if it were the only thing known (reverse accuracy).

Where a mask is of something else than the label, or of nothing, it does not lead to the shots' own masks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amsam_cli.methods.losses import hard_dice, to_side
from amsam_cli.models.base import Memory
from amsam_cli.segmentation.looks import recall_in
from amsam_cli.segmentation.scene import ROWS, Scene, batched

WITNESSES = 3
"""Slices of a result that are asked, those of largest area."""


def ask_back(scene: Scene, logits: Tensor) -> list[float | None]:
    """Return each label's mean Dice on the shots that show it, segmented from `logits` (D, L, s, s) alone.

    None for a label of which nothing was found, or that cannot be asked for.
    """
    if scene.sight.mirror is None:
        return [None] * scene.labels
    area = (logits > 0).flatten(2).sum(dim=2)
    found: list[float | None] = []
    for label in range(scene.labels):
        largest = area[:, label].argsort(descending=True)[:WITNESSES]
        slices = largest[area[largest, label] > 0]
        found.append(_overlap(scene, label, _remembered(scene, logits, slices, label)) if len(slices) else None)
    return found


def _remembered(scene: Scene, logits: Tensor, slices: Tensor, label: int) -> Memory:
    """Return the memory of some slices with their masks of a label."""
    model = scene.memory_model
    masks = logits[slices, label][:, None].to(model.device, torch.float32)
    return model.remember(scene.remembered.rows(slices), to_side(masks, model.image_size).sigmoid())


def _overlap(scene: Scene, label: int, memory: Memory) -> float | None:
    """Return the mean Dice of every shot that shows a label, segmented from every row of `memory`."""
    mirror, device = scene.sight.mirror, scene.memory_model.device
    assert mirror is not None
    shown = scene.sight.bank.prototypes.present[:, label].nonzero()[:, 0]
    if not len(shown):
        return None
    pairs = torch.cartesian_prod(torch.arange(len(memory)), shown)
    scores = []
    for some in batched(pairs, ROWS):
        asked, shots = some.unbind(dim=1)
        embedding = mirror.features.rows(shots).to(device).to(torch.float32)
        answer = recall_in(scene, embedding, torch.full_like(shots, label), [memory.rows(asked.to(device))])
        truth = to_side(mirror.masks[shots, label][:, None].float(), answer.logits.shape[-1]) > 0.5
        scores.append(hard_dice(answer.logits.cpu() > 0, truth).flatten())
    return float(torch.cat(scores).mean())
