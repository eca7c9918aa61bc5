"""What the shots teach without gradients: memories, prototypes, prompt rules.

Made under the weights that will segment, so after tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amsam_cli.adaptation.lesson import Example, Lesson
from amsam_cli.adapter import Mirror, Sight, SupportBank, Trust
from amsam_cli.methods import prompts, pseudo_prompt
from amsam_cli.methods.blending import Blend
from amsam_cli.methods.confidence import Gauge
from amsam_cli.methods.losses import to_side
from amsam_cli.methods.probe import Probe, fit_probe
from amsam_cli.methods.pseudo_prompt import Prototypes
from amsam_cli.methods.shape import learn_shape
from amsam_cli.models.base import Embedding, Memory, Prompts


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
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

    @property
    def sight(self) -> Sight:
        """What an adapter keeps of it; looks count alike, and are trusted in nothing, until they are weighed."""
        masks = _masks(self.examples)
        labels = len(self.rules)
        return Sight(
            self.rules,
            (Trust(prior=0.0, slice=0.0, support=0.0),) * labels,
            (Blend(),) * labels,
            self.bank,
            self.probe,
            gauges=(Gauge(0.0),) * labels,
            mirror=_mirror(self.examples),
            shapes=tuple(map(learn_shape, masks.unbind(1))),
            together=learn_shape(masks.amax(dim=1)),
        )


@torch.no_grad()
def explore(lesson: Lesson, examples: Sequence[Example]) -> Survey:
    """Return what is known of the shots at one scale, under the weights of now."""
    known = _prototypes(examples)
    uses_probe = lesson.config.prior == "probe"
    prior = _probed(lesson, examples) if uses_probe else _cosines(examples, known)
    rules, found = _prompts(lesson, examples, prior)
    probe = _fit(lesson, examples) if uses_probe else None
    return Survey(examples, rules, probe, prior, found, _bank(lesson, examples, known))


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
    masks = _masks(examples)
    rules = tuple(
        prompts.learn_rule(prior[:, 0, label], masks[:, label]).asking(lesson.config.prompts)
        for label in range(len(lesson.labels))
    )
    found = [
        prompts.find_prompts(prior[:, :, label].flatten(0, 1), rule, lesson.model.image_size)
        for label, rule in enumerate(rules)
    ]
    return rules, Prompts.cat(found)


def _masks(examples: Sequence[Example]) -> Tensor:
    """Return the masks (K, L, S, S) of the first view of each shot: as annotated."""
    return torch.stack([example.masks[0] for example in examples])


def _mirror(examples: Sequence[Example]) -> Mirror:
    """Return the first view of each shot."""
    features = Embedding.cat([example.remembered.rows(slice(0, 1)) for example in examples])
    masks = torch.cat([example.memory_masks[:1] for example in examples])
    places = torch.tensor([example.shot.position for example in examples], dtype=torch.float32)
    return Mirror(features.to("cpu").to(torch.float16), (to_side(masks, masks.shape[-1] // 4) > 0.5).cpu(), places)
