"""What the shots teach without gradients: memories, prototypes, prompt rules, and how far each look can be trusted.

Made under the weights that will segment, so after tuning. No shot is judged with the help of itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amsam_cli.adaptation.lesson import Example, Lesson
from amsam_cli.adapter import Mirror, Sight, SupportBank, Trust
from amsam_cli.methods import prompts, pseudo_prompt
from amsam_cli.methods.blending import Blend, fit_blend
from amsam_cli.methods.confidence import Gauge, own_estimate
from amsam_cli.methods.losses import hard_dice, to_side
from amsam_cli.methods.probe import Probe, fit_probe
from amsam_cli.methods.pseudo_prompt import Prototypes
from amsam_cli.models.base import CLIP, Embedding, Memory, Prompts


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The shots at one scale with all that is known of them.

    Attributes:
        examples: the shots as the models see them.
        rules: how each label's prior becomes prompts.
        probe: the classifier behind the prior, of all shots; None where the prior is a cosine.
        prior: (K, A, L, h, w), where each label may be in each view, by the other shots.
        found: prompts of all views, rows in the order (label, shot, view).
        bank: the memories of the shots as annotated, with their prototypes.
    """

    examples: Sequence[Example]
    rules: tuple[prompts.PromptRule, ...]
    probe: Probe | None
    prior: Tensor
    found: Prompts
    bank: SupportBank


@torch.no_grad()
def explore(lesson: Lesson, examples: Sequence[Example]) -> Scene:
    """Return what is known of the shots at one scale, under the weights of now."""
    known = _prototypes(examples)
    uses_probe = lesson.config.prior == "probe"
    prior = _probed(lesson, examples) if uses_probe else _cosines(examples, known)
    rules, found = _prompts(lesson, examples, prior)
    probe = _fit(lesson, examples) if uses_probe else None
    return Scene(examples, rules, probe, prior, found, _bank(lesson, examples, known))


@torch.no_grad()
def judge(lesson: Lesson, scene: Scene, dense: Tensor, channels: Tensor | None = None) -> Sight:
    """Return the part of a scene that an adapter keeps, with what each look at each label has earned on the shots.

    Args:
        lesson: the shots.
        scene: what is known of them now.
        dense: (L, C), each label's learned prompt.
        channels: (L,), the mask token that answers for each; None where all ask the model's own.
    """
    trust, blends, gauges = [], [], []
    for label in range(len(lesson.labels)):
        channel = None if channels is None else channels[label : label + 1]
        asked = Prompts.empty(1, device=lesson.model.device, dense=dense[label : label + 1], channel=channel)
        views = _look_back(lesson, scene, asked, label)
        truth = torch.cat([example.masks[:, label] for example in scene.examples])
        trust.append(Trust(**{name: _overlap(logits, truth) for name, logits in views.items()}))
        blends.append(_blend(views, truth) if len(scene.examples) > 1 else Blend())
        gauges.append(_gauge(views, blends[-1], truth, is_held_out=len(scene.examples) > 1))
    return Sight(
        scene.rules, tuple(trust), tuple(blends), scene.bank, scene.probe, tuple(gauges), _mirror(scene.examples)
    )


def _prototypes(examples: Sequence[Example]) -> Prototypes:
    plain = torch.cat([example.read[:1] for example in examples])
    masks = torch.cat([example.masks[:1] for example in examples])
    return pseudo_prompt.prototypes(plain.float(), masks)


def _bank(lesson: Lesson, examples: Sequence[Example], known: Prototypes) -> SupportBank:
    """Return the memories of the first view of each shot, under the weights of now."""
    count, labels = len(examples), examples[0].masks.shape[1]
    first = Memory.cat([lesson.remember(example, views=1) for example in examples])
    maps, pointers, small = (
        part.view(count, labels, *part.shape[1:]).cpu() for part in (first.map, first.pointer, first.mask)
    )
    on_cpu = Prototypes(known.foreground.cpu(), known.background.cpu(), known.present.cpu())
    return SupportBank(maps, pointers, small, on_cpu)


def _fit(lesson: Lesson, examples: Sequence[Example]) -> Probe:
    """Return the probe of all views of some shots; of kept ones it is fitted once, however many folds ask for it."""
    wanted = tuple(examples)
    known = lesson.probes if lesson.kept else {}
    if wanted not in known:
        slices = Embedding.cat([example.slices for example in wanted])
        known[wanted] = fit_probe(slices, torch.cat([example.masks for example in wanted]), seed=lesson.config.seed)
    return known[wanted]


def _probed(lesson: Lesson, examples: Sequence[Example]) -> Tensor:
    """Return the prior (K, A, L, s, s) of each shot by the probe of the others."""
    return torch.stack(
        [
            _fit(lesson, [examples[other] for other in _others(index, len(examples))]).probability(example.slices)
            for index, example in enumerate(examples)
        ]
    )


def _cosines(examples: Sequence[Example], known: Prototypes) -> Tensor:
    """Return the prior (K, A, L, h, w) of each shot by the prototypes of the others (FSSAM's PPG)."""
    by_shot = []
    for index, example in enumerate(examples):
        assert example.context is not None
        others = known.only(_others(index, len(examples)))
        context = pseudo_prompt.similarities(example.context, others)
        own = pseudo_prompt.similarities(example.read, others)
        by_shot.append(pseudo_prompt.priors(*own, over=context).discriminative)
    return torch.stack(by_shot)


def _others(index: int, count: int) -> list[int]:
    """Return all shots but one, so that it is judged as a new scan will be; itself where it is the only one."""
    return [other for other in range(count) if other != index] or [index]


def _prompts(
    lesson: Lesson, examples: Sequence[Example], prior: Tensor
) -> tuple[tuple[prompts.PromptRule, ...], Prompts]:
    """Return each label's rule, and prompts of all views, rows in the order (label, shot, view).

    From leave-one-out priors, so that training sees prompts as good and as bad as a new scan's will be.
    """
    masks = torch.stack([example.masks[0] for example in examples])
    rules = tuple(
        prompts.learn_rule(prior[:, 0, label], masks[:, label]).asking(lesson.config.prompts)
        for label in range(len(lesson.labels))
    )
    found = [
        prompts.find_prompts(prior[:, :, label].flatten(0, 1), rule, lesson.model.image_size)
        for label, rule in enumerate(rules)
    ]
    return rules, Prompts.cat(found)


def _look_back(lesson: Lesson, scene: Scene, plain: Prompts, label: int) -> dict[str, Tensor]:
    """Return the logits (K * A, s, s) of all ways of looking at the views of all shots, none helped by its own shot.

    `plain` is one row that asks for the label without a box.
    """
    rule, count = scene.rules[label], len(scene.examples)
    looks: dict[str, list[Tensor]] = {"prior": [], "slice": [], "support": []}
    for shot, example in enumerate(scene.examples):
        alone = plain.repeat(example.views)
        row = (label * count + shot) * example.views
        found = scene.found.rows(slice(row, row + example.views))
        asked = replace(alone, points=found.points, point_labels=found.point_labels)
        looks["prior"].append(rule.logits(scene.prior[shot, :, label, None]))
        looks["slice"].append(lesson.model.decode(example.slices, asked).logits)
        bank = [memory.repeat(example.views) for memory in _others_memories(lesson, scene, label, shot)]
        known = alone if lesson.remembers_itself else None
        looks["support"].append(lesson.memory_model.recall(example.remembered, bank, known).logits)
    return {name: torch.cat(parts)[:, 0] for name, parts in looks.items()}


def _others_memories(lesson: Lesson, scene: Scene, label: int, shot: int) -> list[Memory]:
    """Return the memories of the other shots that show a label; its own where it is the only one."""
    shown = scene.bank.prototypes.present[:, label].nonzero()[:, 0].tolist()
    memories = scene.bank.memories(label, lesson.memory_model.device)
    return [memory for other, memory in zip(shown, memories, strict=True) if other != shot] or memories


def _overlap(logits: Tensor, truth: Tensor) -> float:
    """Return the mean Dice of masks (n, s, s) over the views (n, S, S) that show the label."""
    small = to_side(truth[:, None], logits.shape[-1])[:, 0]
    shown = small.flatten(1).amax(dim=1) > 0.5
    return round(float(hard_dice(logits[shown] > 0, small[shown] > 0.5).mean()), 4) if shown.any() else 0.0


def _blend(views: dict[str, Tensor], truth: Tensor) -> Blend:
    """Return the blend of looks of any resolution."""
    fine = _alike(views)
    return fit_blend(fine, to_side(truth[:, None], fine["prior"].shape[-1])[:, 0].cpu())


def _alike(views: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return looks (n, s, s) at the side of the finest, within the logits that count."""
    side = max(logits.shape[-1] for logits in views.values())
    return {name: to_side(logits[:, None], side)[:, 0].clamp(-CLIP, CLIP).cpu() for name, logits in views.items()}


def _gauge(views: dict[str, Tensor], blend: Blend, truth: Tensor, *, is_held_out: bool) -> Gauge:
    """Return what the blended masks of the views that show a label expect of themselves, and what they are."""
    blended = blend.mean(_alike(views))
    small = to_side(truth[:, None], blended.shape[-1])[:, 0].cpu() > 0.5
    shown = small.flatten(1).any(dim=1)
    if not shown.any():
        return Gauge(0.0)
    own = float(own_estimate(blended[shown]).mean())
    return Gauge(round(own, 4), _overlap(blended, truth.cpu()) if is_held_out else None)


def _mirror(examples: Sequence[Example]) -> Mirror:
    """Return the first view of each shot."""
    features = Embedding.cat([example.remembered.rows(slice(0, 1)) for example in examples])
    masks = torch.cat([example.memory_masks[:1] for example in examples])
    places = torch.tensor([example.shot.position for example in examples], dtype=torch.float32)
    return Mirror(features.to("cpu").to(torch.float16), (to_side(masks, masks.shape[-1] // 4) > 0.5).cpu(), places)
