"""What the shots teach without gradients: memories, prototypes, prompt rules, and how far each look can be trusted.

Made under the weights that will segment, so after tuning. No shot is judged with the help of itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from amsam_cli.adaptation.lesson import Example, Lesson
from amsam_cli.adapter import Sight, SupportBank, Trust
from amsam_cli.methods import prompts, pseudo_prompt
from amsam_cli.methods.losses import hard_dice, to_side
from amsam_cli.methods.pseudo_prompt import Prototypes
from amsam_cli.models.base import Decoded, Memory, Prompts


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The shots at one scale with all that is known of them.

    Attributes:
        examples: the shots as the models see them.
        rules: how each label's prior becomes prompts.
        found: prompts of all views, rows in the order (label, shot, view).
        memories: of all views, rows in the order (shot, view, label).
        bank: the memories of the shots as annotated, with their prototypes.
    """

    examples: Sequence[Example]
    rules: tuple[prompts.PromptRule, ...]
    found: Prompts
    memories: Memory
    bank: SupportBank


@torch.no_grad()
def explore(lesson: Lesson, examples: Sequence[Example]) -> Scene:
    """Return what is known of the shots at one scale, under the weights of now."""
    memories = Memory.cat([_memories_of(example, lesson) for example in examples])
    known = _prototypes(examples)
    bank = _bank(memories, examples, known)
    rules, found = _leave_one_out_prompts(lesson, examples, known)
    return Scene(examples, rules, found, memories, bank)


@torch.no_grad()
def judge(lesson: Lesson, scene: Scene, dense: Tensor) -> Sight:
    """Return the part of a scene that an adapter keeps, with the trust each look at each label has earned."""
    trust = tuple(_trust(lesson, scene, dense, label) for label in range(len(lesson.labels)))
    return Sight(scene.rules, trust, scene.bank)


def _memories_of(example: Example, lesson: Lesson) -> Memory:
    """Return one shot's memories, one row for each (view, label)."""
    labels = example.memory_masks.shape[1]
    return lesson.memory_model.remember(example.remembered.repeat(labels), example.memory_masks.flatten(0, 1)[:, None])


def _prototypes(examples: Sequence[Example]) -> Prototypes:
    plain = torch.cat([example.slices.features[:1] for example in examples])
    masks = torch.cat([example.masks[:1] for example in examples])
    return pseudo_prompt.prototypes(plain.float(), masks)


def _bank(memories: Memory, examples: Sequence[Example], known: Prototypes) -> SupportBank:
    """Return the memories of the first view of each shot."""
    count, labels, views = len(examples), examples[0].masks.shape[1], examples[0].views
    rows = torch.arange(count * views * labels).view(count, views, labels)[:, 0].flatten()
    first = memories.rows(rows)
    maps, pointers, small = (
        part.view(count, labels, *part.shape[1:]).cpu() for part in (first.map, first.pointer, first.mask)
    )
    on_cpu = Prototypes(known.foreground.cpu(), known.background.cpu(), known.present.cpu())
    return SupportBank(maps, pointers, small, on_cpu)


def _leave_one_out_prompts(
    lesson: Lesson, examples: Sequence[Example], known: Prototypes
) -> tuple[tuple[prompts.PromptRule, ...], Prompts]:
    """Return each label's rule, and prompts of all views, rows in the order (label, shot, view).

    No shot's prior is made from itself, so that training sees prompts as good and as bad as a new scan's will be.
    """
    by_shot = []
    for index, example in enumerate(examples):
        others = [other for other in range(len(examples)) if other != index] or [index]
        context = pseudo_prompt.similarities(example.context, known.only(others))
        own = pseudo_prompt.similarities(example.slices.features, known.only(others))
        by_shot.append(pseudo_prompt.priors(*own, over=context).discriminative)
    prior = torch.stack(by_shot)  # (K, A, L, h, w)
    masks = torch.stack([example.masks[0] for example in examples])
    rules = tuple(prompts.learn_rule(prior[:, 0, label], masks[:, label]) for label in range(len(lesson.labels)))
    if lesson.config.prompts == "none":
        rules = tuple(prompts.silent(rule) for rule in rules)
    found = [
        prompts.find_prompts(prior[:, :, label].flatten(0, 1), rule, lesson.model.image_size)
        for label, rule in enumerate(rules)
    ]
    return rules, Prompts.cat(found)


def _trust(lesson: Lesson, scene: Scene, dense: Tensor, label: int) -> Trust:
    """Return how well both ways of looking do on the shots that show a label, none helped by its own memory."""
    shown = scene.bank.prototypes.present[:, label].nonzero()[:, 0].tolist()
    memories = dict(zip(shown, scene.bank.memories(label, lesson.memory_model.device), strict=True))
    alone, recalled = [], []
    for shot in shown:
        example = scene.examples[shot]
        views = example.views
        learned = dense[label].to(lesson.model.device).expand(views, -1)
        row = (label * len(scene.examples) + shot) * views
        asked = replace(scene.found.rows(slice(row, row + views)), dense=learned)
        alone.append(_overlap(lesson.model.decode(example.slices, asked), example.masks[:, label]))
        others = [memories[other] for other in shown if other != shot] or [memories[shot]]
        plain = Prompts.empty(views, device=learned.device, dense=learned if lesson.remembers_itself else None)
        answer = lesson.memory_model.recall(example.remembered, [each.repeat(views) for each in others], plain)
        recalled.append(_overlap(answer, example.memory_masks[:, label]))
    return Trust(round(float(np.mean(alone)), 4), round(float(np.mean(recalled)), 4))


def _overlap(answer: Decoded, truth: Tensor) -> float:
    """Return the mean Dice of masks over views (A, S, S)."""
    side = answer.logits.shape[-1]
    small = to_side(truth[:, None], side)[:, 0]
    return float(hard_dice(answer.logits[:, 0] > 0, small > 0.5).mean())
