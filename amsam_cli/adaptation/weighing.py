"""How much each look counts: by what it said of shots that it was not helped by, beside the truth.

Where the encoder is frozen, the other shots' memories and probe look back at each shot. Weights that were tuned whole
know all shots by heart: what they say of them is too good to tell what they will be worth. So what refits say of the
shots they were kept from takes its place, where there is a forecast: a stack is fitted to models that saw none of its
frames (Wolpert, 1992).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amsam_cli.adaptation.lesson import Example, Lesson
from amsam_cli.adaptation.sights import Survey
from amsam_cli.adapter import Adapter, Sight, Trust
from amsam_cli.methods import prompts, pseudo_prompt
from amsam_cli.methods.blending import Blend, fit_blend
from amsam_cli.methods.confidence import Gauge, own_estimate
from amsam_cli.methods.losses import hard_dice, to_side
from amsam_cli.models.base import CLIP, Memory, Prompts


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What each way of looking says of one label in frames that no look was helped by, on the CPU.

    Attributes:
        looks: kind of look -> logits (n, s, s), of any resolution.
        truth: (n, S, S) soft masks.
    """

    looks: Mapping[str, Tensor]
    truth: Tensor

    @classmethod
    def cat(cls, parts: Sequence[Evidence]) -> Evidence:
        """Return the frames of all, one after another."""
        looks = {kind: torch.cat([part.looks[kind] for part in parts]) for kind in parts[0].looks}
        return cls(looks, torch.cat([part.truth for part in parts]))


@torch.no_grad()
def look_back(lesson: Lesson, survey: Survey, dense: Tensor, channels: Tensor | None) -> list[Evidence | None]:
    """Return the looks at all views of all shots, each by the memories and the probe of the others, label by label.

    None of labels that no shot shows, as happens where the one patient who has it is held out.

    Args:
        lesson: the shots.
        survey: what is known of them now.
        dense: (L, C), each label's learned prompt.
        channels: (L,), the mask token that answers for each; None where all ask the model's own.
    """
    count = len(survey.examples)
    shown = survey.bank.prototypes.present.any(dim=0).tolist()
    found: list[Evidence | None] = []
    for label, rule in enumerate(survey.rules):
        eye = _Eye(lesson, label, dense, channels)
        parts = []
        for shot, example in enumerate(survey.examples if shown[label] else ()):
            row = (label * count + shot) * example.views
            asked = survey.found.rows(slice(row, row + example.views))
            bank = _others_memories(lesson, survey, label, shot)
            parts.append(eye.look(example, rule.logits(survey.prior[shot, :, label, None]), asked, bank))
        found.append(Evidence.cat(parts) if parts else None)
    return found


@torch.no_grad()
def look_ahead(lesson: Lesson, adapter: Adapter, sight: Sight, examples: Sequence[Example]) -> list[Evidence | None]:
    """Return the looks of an adapter, under its weights, at all views of shots that it was kept from, label by label.

    None of labels that its own shots do not show.
    """
    found: list[Evidence | None] = []
    for label, rule in enumerate(sight.rules):
        eye = _Eye(lesson, label, adapter.dense, adapter.changes.channels)
        bank = sight.bank.memories(label, lesson.memory_model.device)
        parts = []
        for example in examples if bank else ():
            prior = _prior(sight, example, label)
            asked = prompts.find_prompts(prior, rule, lesson.model.image_size)
            parts.append(eye.look(example, rule.logits(prior[:, None]), asked, bank))
        found.append(Evidence.cat(parts) if parts else None)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Eye:
    """Looks at frames for one label, asking by its learned prompt."""

    lesson: Lesson
    label: int
    dense: Tensor
    channels: Tensor | None

    def look(self, example: Example, prior: Tensor, found: Prompts, bank: Sequence[Memory]) -> Evidence:
        """Return all looks at a shot, by a prior (A, 1, h, w) in logits, prompts of all views, memories of one row."""
        lesson, label = self.lesson, slice(self.label, self.label + 1)
        channel = None if self.channels is None else self.channels[label]
        plain = Prompts.empty(1, device=lesson.model.device, dense=self.dense[label], channel=channel)
        plain = plain.repeat(example.views)
        asked = replace(plain, points=found.points, point_labels=found.point_labels)
        memories = [memory.repeat(example.views) for memory in bank]
        known = plain if lesson.remembers_itself else None
        looks = {
            "prior": prior,
            "slice": lesson.model.decode(example.slices, asked).logits,
            "support": lesson.memory_model.recall(example.remembered, memories, known).logits,
        }
        truth = example.masks[:, self.label]
        return Evidence({kind: logits[:, 0].cpu() for kind, logits in looks.items()}, truth.cpu())


def _others_memories(lesson: Lesson, survey: Survey, label: int, shot: int) -> list[Memory]:
    """Return the memories of the other shots that show a label; its own where it is the only one."""
    shown = survey.bank.prototypes.present[:, label].nonzero()[:, 0].tolist()
    memories = survey.bank.memories(label, lesson.memory_model.device)
    return [memory for other, memory in zip(shown, memories, strict=True) if other != shot] or memories


def _prior(sight: Sight, example: Example, label: int) -> Tensor:
    """Return where a label may be in the views (A, h, w) of a shot, by what is known of others."""
    if sight.probe:
        return sight.probe.probability(example.slices)[:, label]
    assert example.context is not None
    known = sight.bank.prototypes.to(example.read.device)
    around = pseudo_prompt.similarities(example.context, known)
    own = pseudo_prompt.similarities(example.read, known)
    return pseudo_prompt.priors(*own, over=around).discriminative[:, label]


def weigh(sight: Sight, evidence: Sequence[Evidence | None], *, is_held_out: bool = True) -> Sight:
    """Return a sight in which looks count by evidence of each label; as they did, where there is none of it.

    Frames that were not held out, of a single shot, say nothing: then looks count alike, and masks of unknown worth.
    """
    found = [_weigh_label(each, is_held_out) if each else None for each in evidence]
    trust, blends, gauges = zip(
        *(new or (sight.trust[label], sight.blends[label], sight.gauges[label]) for label, new in enumerate(found)),
        strict=True,
    )
    return replace(sight, trust=trust, blends=blends, gauges=gauges)


def _weigh_label(found: Evidence, is_held_out: bool) -> tuple[Trust, Blend, Gauge]:
    trust = Trust(**{kind: _overlap(logits, found.truth) for kind, logits in found.looks.items()})
    fine = _alike(found.looks)
    blend = Blend()
    if is_held_out:
        blend = fit_blend(fine, to_side(found.truth[:, None], fine["prior"].shape[-1])[:, 0])
    return trust, blend, _gauge(blend.mean(fine), found.truth, is_held_out=is_held_out)


def _alike(looks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return looks (n, s, s) at the side of the finest, within the logits that count."""
    side = max(logits.shape[-1] for logits in looks.values())
    return {kind: to_side(logits[:, None], side)[:, 0].clamp(-CLIP, CLIP) for kind, logits in looks.items()}


def _overlap(logits: Tensor, truth: Tensor) -> float:
    """Return the mean Dice of masks (n, s, s) over the views (n, S, S) that show the label."""
    small = to_side(truth[:, None], logits.shape[-1])[:, 0]
    shown = small.flatten(1).amax(dim=1) > 0.5
    return round(float(hard_dice(logits[shown] > 0, small[shown] > 0.5).mean()), 4) if shown.any() else 0.0


def _gauge(blended: Tensor, truth: Tensor, *, is_held_out: bool) -> Gauge:
    """Return what blended masks of the frames that show a label expect of themselves, and what they are."""
    shown = (to_side(truth[:, None], blended.shape[-1])[:, 0] > 0.5).flatten(1).any(dim=1)
    if not shown.any():
        return Gauge(0.0)
    own = float(own_estimate(blended[shown]).mean())
    return Gauge(round(own, 4), _overlap(blended, truth) if is_held_out else None)
