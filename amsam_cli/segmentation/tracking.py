"""A label carried from its key slices through their neighbours: SAM 2's memory, both ways, all labels at once.

Every way out of a key slice is a lane: a label, a direction, and the slices up to the next key slice. Lanes take one
step at a time in one batch, each on a slice of its own; forward and backward never share a memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amsam_cli.methods.losses import hard_dice, to_side
from amsam_cli.methods.pseudo_prompt import Priors
from amsam_cli.models.base import CLIP, Decoded, Memory
from amsam_cli.segmentation.looks import Look, pseudo_memories, recall
from amsam_cli.segmentation.plan import Plan
from amsam_cli.segmentation.scene import ROWS, Scene, batched

POINTERS = 15
"""SAM 2 attends to the maps of the last six slices and to the pointers of the last fifteen."""
LANES = 8
"""Lanes under way at once: a long scan has hundreds, and each keeps its last memories."""
PATIENCE = 3
"""Slices in a row without the object after which a lane stops."""
SURE = 0.5
"""Presence and predicted IoU a mask needs to enter memory: a bad slice must not feed the next."""
REACH = 10.0
"""Slices after which a key slice's word counts a third."""
TRACK_WEIGHT = 2.0
"""A neighbour of the same scan says more than a slice of another patient."""
KEY_SHARE = 0.1
"""Key slices a label may have, as a share of the slices it seems to be on; at least one."""
APART = 5
"""Slices between two key slices."""
KEY_QUALITY = 0.6
"""How good a further key slice must be, beside the best."""


@dataclass(frozen=True, slots=True)
class Lane:
    """A label on its way from a key slice in one direction; `slices` in the order they are met."""

    label: int
    key: int
    slices: range

    @property
    def way(self) -> str:
        """Where it leads."""
        return "forward" if self.slices.step > 0 else "backward"


def key_slices(looks: Sequence[Look]) -> list[list[int]]:
    """Return each label's key slices, the best first; none where it seems to be nowhere.

    A slice is a good one where the looks agree, think well of themselves, and see a large object: the largest
    cross-section is the best single prompt SAM 2 can get, so size enters by its square root.
    """
    quality, present = _quality(looks)
    return [_best(quality[:, label], present[:, label]) for label in range(quality.shape[1])]


def _quality(looks: Sequence[Look]) -> tuple[Tensor, Tensor]:
    """Return how good a key each slice would be for each label, and whether it seems to be there, (D, L) each."""
    last = looks[-1]
    area = (last.logits > 0).flatten(2).sum(dim=2) / last.logits[0, 0].numel()
    quality = last.score * last.presence * (area / area.amax(dim=0).clamp_min(1e-9)).sqrt()
    if len(looks) > 1:
        quality = quality * agreement(looks[0].logits, last.logits)
    present = (last.presence > 0.5) & (area > 0)
    return quality * present, present


def _best(quality: Tensor, present: Tensor) -> list[int]:
    """Return one label's key slices by their quality (D,)."""
    if not bool(present.any()):
        return []
    most = max(1, round(KEY_SHARE * int(present.sum())))
    chosen: list[int] = []
    for index in quality.argsort(descending=True).tolist():
        good = quality[index] >= KEY_QUALITY * quality.max() and quality[index] > 0
        if len(chosen) < most and (not chosen or good) and all(abs(index - other) >= APART for other in chosen):
            chosen.append(index)
    return chosen


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Return the Dice of two stacks of logits (D, L, s, s), of any resolution, (D, L)."""
    side = max(first.shape[-1], second.shape[-1])
    values = []
    for one, other in zip(batched(first, ROWS), batched(second, ROWS), strict=True):
        masks = [to_side(part.float(), side).flatten(0, 1) > 0 for part in (one, other)]
        values.append(hard_dice(*masks).view(one.shape[:2]))
    return torch.cat(values)


def lanes_of(keys: Sequence[Sequence[int]], allowed: Tensor) -> dict[str, list[Lane]]:
    """Return the lanes from every key slice to the next one, or to the end of what is allowed (D, L), by direction."""
    lanes: dict[str, list[Lane]] = {"forward": [], "backward": []}
    for label, found in enumerate(keys):
        inside = allowed[:, label].nonzero()[:, 0].tolist()
        first, last = (inside[0], inside[-1]) if inside else (0, -1)
        ordered = sorted(found)
        for before, key, after in zip([first - 1, *ordered], ordered, [*ordered[1:], last + 1], strict=False):
            lanes["forward"].append(Lane(label, key, range(key + 1, after)))
            lanes["backward"].append(Lane(label, key, range(key - 1, before, -1)))
    return lanes


def track(scene: Scene, source: Look, keys: Sequence[Sequence[int]], prior: Priors, plan: Plan) -> dict[str, Look]:
    """Return the labels carried forward and backward from their key slices, whose masks `source` has."""
    by_direction = lanes_of(keys, scene.allowed)
    lanes = [lane for way in by_direction.values() for lane in way]
    if not lanes:
        return {}
    side = scene.memory_model.image_size // 4
    looks = {way: Look.blank(scene.depth, scene.labels, side) for way in by_direction}
    _put_keys(looks, source, keys)
    for some in fleets_of(lanes):
        fleet = _Fleet(scene, some, _key_memories(scene, source, some), plan, prior, source)
        while len(rows := fleet.next_rows()):
            _put_step(looks, fleet, rows)
    return looks


def _put_step(looks: dict[str, Look], fleet: _Fleet, rows: Tensor) -> None:
    """Take one step in some lanes, and let each track show what was seen on its way."""
    slices, labels, answer = fleet.step(rows)
    fading = TRACK_WEIGHT * torch.exp(torch.tensor(-fleet.steps / REACH))
    for way, look in looks.items():
        own = torch.tensor([fleet.lanes[int(row)].way == way for row in rows])
        if own.any():
            look.put(slices[own], labels[own], answer.rows(own.to(answer.score.device)), fading)


def fleets_of(lanes: Sequence[Lane]) -> list[list[Lane]]:
    """Return lanes, one at least, in groups that go together: few groups, alike in size, of lanes alike in length.

    >>> [len(some) for some in fleets_of([Lane(0, 0, range(1, 9))] * 40)]
    [8, 8, 8, 8, 8]
    """
    ordered = sorted(lanes, key=lambda lane: -len(lane.slices))
    groups = math.ceil(len(ordered) / LANES)
    size = math.ceil(len(ordered) / groups)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _put_keys(looks: dict[str, Look], source: Look, keys: Sequence[Sequence[int]]) -> None:
    """Let every track begin with what was seen at its key slices."""
    for label, found in enumerate(keys):
        for look in looks.values():
            seen = to_side(source.logits[found, label][:, None].float(), look.logits.shape[-1])[:, 0]
            look.logits[found, label] = seen.to(look.logits.dtype)
            look.score[found, label] = source.score[found, label]
            look.presence[found, label] = source.presence[found, label]
            look.weight[found, label] = TRACK_WEIGHT


def _key_memories(scene: Scene, source: Look, lanes: Sequence[Lane]) -> Memory:
    """Return the memory of each lane's key slice, with the mask seen there."""
    model = scene.memory_model
    keys, labels = torch.tensor([lane.key for lane in lanes]), torch.tensor([lane.label for lane in lanes])
    pairs, where = torch.unique(torch.stack([keys, labels]), dim=1, return_inverse=True)
    parts = []
    for slices, kinds in zip(batched(pairs[0], ROWS), batched(pairs[1], ROWS), strict=True):
        logits = source.logits[slices, kinds][:, None].to(model.device, torch.float32)
        embedding = scene.remembered.rows(slices)
        pointer = model.pointer(embedding, to_side(logits, model.image_size).sigmoid())
        sure = torch.full((len(slices),), CLIP, device=model.device)
        parts.append(model.keep(embedding, Decoded(logits, sure, sure, pointer)))
    return Memory.cat(parts).rows(where.to(model.device))


class _Fleet:
    """Lanes that go together, one step at a time.

    A slice that is found empty or doubtful never enters memory; a lane stops at its end, or when it has met `PATIENCE`
    slices in a row without its object.
    """

    def __init__(
        self, scene: Scene, lanes: Sequence[Lane], keys: Memory, plan: Plan, prior: Priors, source: Look
    ) -> None:
        self.source = source
        self.scene = scene
        self.lanes = lanes
        self.keys = keys
        self.plan = plan
        self.prior = prior
        self.steps = 0
        self.labels = torch.tensor([lane.label for lane in lanes])
        self.missed = torch.zeros(len(lanes), dtype=torch.long)
        self.tracked: list[Memory] = []

    def next_rows(self) -> Tensor:
        """Return the lanes that have a slice to go on to."""
        lengths = torch.tensor([len(lane.slices) for lane in self.lanes])
        lost = (self.missed >= PATIENCE) & self.plan.is_careful
        return ((lengths > self.steps) & ~lost).nonzero()[:, 0]

    def step(self, rows: Tensor) -> tuple[Tensor, Tensor, Decoded]:
        """Take one step in some lanes; return the slices, labels and masks of it."""
        slices = torch.tensor([self.lanes[int(row)].slices[self.steps] for row in rows])
        labels = self.labels[rows]
        self.steps += 1
        answer = recall(self.scene, slices, labels, self._bank(rows, slices, labels), self.plan)
        seen = answer.presence.sigmoid()
        self.missed[rows] = torch.where(seen.cpu() < SURE, self.missed[rows] + 1, 0)
        good = (seen >= SURE) & (answer.score >= SURE)
        self._remember(rows, slices, answer, good if self.plan.is_careful else torch.ones_like(good))
        return slices, labels, answer

    def _bank(self, rows: Tensor, slices: Tensor, labels: Tensor) -> list[Memory]:
        on_device = rows.to(self.keys.map.device)
        supports = self.scene.supports(slices, labels) if self.plan.recalls_supports else []
        key = self.keys.rows(on_device).own(distance=min(self.steps, POINTERS))
        own = [replace(memory.rows(on_device), age=age) for age, memory in enumerate(reversed(self.tracked), start=1)]
        pseudo = pseudo_memories(self.scene, self.prior, slices, labels, self.plan)
        met = (memory for memory in own if memory.there is not None and memory.there.any())
        # Where no row lacks it there is nothing to mask, and attention runs as published, which is faster.
        whole = (
            replace(memory, there=None) if memory.there is not None and memory.there.all() else memory for memory in met
        )
        return [*supports, *pseudo, key, *whole]

    def _remember(self, rows: Tensor, slices: Tensor, answer: Decoded, good: Tensor) -> None:
        """Keep the good masks of this step; every lane has a row, there or not."""
        there = torch.zeros(len(self.lanes), dtype=torch.bool, device=good.device)
        there[rows.to(good.device)] = good
        content = replace(self.keys, there=there, is_own=True)
        if good.any():
            if self.plan.excludes:
                answer = without_rivals(answer, self.source, slices, self.labels[rows])
            kept = self.scene.memory_model.keep(self.scene.remembered.rows(slices[good.cpu()]), answer.rows(good))
            content = replace(
                content,
                map=_scattered(kept.map, there),
                pointer=_scattered(kept.pointer, there),
                mask=_scattered(kept.mask, there),
            )
        self.tracked = [*self.tracked[-POINTERS + 1 :], content]


def without_rivals(answer: Decoded, source: Look, slices: Tensor, labels: Tensor) -> Decoded:
    """Return (slice, label) masks without the pixels of which `source` is surer that they are another label's.

    SAM 2 compares objects on one frame; lanes of other labels may be elsewhere, so the look they began with speaks.
    """
    others = source.logits[slices].float()
    others[torch.arange(len(labels)), labels] = -CLIP
    rival = to_side(others.amax(dim=1, keepdim=True), answer.logits.shape[-1]).to(answer.logits.device)
    taken = (rival > 0) & (rival > answer.logits)
    return replace(answer, logits=torch.where(taken, -CLIP, answer.logits))


def _scattered(values: Tensor, there: Tensor) -> Tensor:
    """Return `values` (n, …) at the n rows that are there, zeros at the others."""
    spread = values.new_zeros(len(there), *values.shape[1:])
    spread[there] = values
    return spread
