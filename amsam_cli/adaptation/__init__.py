"""Shots -> Adapter: choose shots, make frames of them, tune, remember them, forecast.

Knows no files but what a shot brings.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from amsam_cli import models
from amsam_cli.adaptation.choice import choose
from amsam_cli.adaptation.forecast import Forecast, hold_out
from amsam_cli.adaptation.lesson import Lesson, prepare
from amsam_cli.adaptation.sights import Survey, explore
from amsam_cli.adaptation.tuning import Learned, tune
from amsam_cli.adaptation.weighing import look_back, weigh
from amsam_cli.adapter import Adapter, AdapterConfig, Backbone, Record, Sight, Tune
from amsam_cli.adapter.changes import attached
from amsam_cli.errors import InputError
from amsam_cli.models.base import MemoryModel, OnStep, PromptableModel, Resizable, at_side, silent
from amsam_cli.volume import Shot

__all__ = ["adapt", "choose"]

SMALL = 20_000_000
"""Weights up to which all are tuned: the built-in model has 8.7 million, the smallest SAM 2.1 has 39."""
LARGE = 0.015
"""Share of the frame from which a label spans four logits of a frame of 128 px."""
FULL_STEPS, FINE_STEPS = 150, 300
"""Steps in which every weight is tuned: fewer where views of a part of a frame are blurred, as that is all there is."""
PUBLISHED_EPOCHS = 100
"""Over half of the shots, one a step."""
FOLD_STEPS, FINE_FOLD_STEPS = 0.5, 0.25
"""Share of the steps that a refit of the forecast takes: it learns from fewer shots, and must not take the longest."""
ENOUGH = 3
"""Shots from which one can be found from the others: two others at least."""
COLLAPSED = 0.2
"""Dice on its own shots under which a label was not learned."""


def adapt(
    shots: Sequence[Shot],
    model: PromptableModel | str = "builtin",
    *,
    memory_model: MemoryModel | str | None = None,
    config: AdapterConfig | None = None,
    on_step: OnStep | None = None,
) -> Adapter:
    """Return an adapter that segments what the shots show.

    Args:
        shots: annotated slices, all of one plane.
        model: what is tuned and decodes slices, or its name.
        memory_model: what carries masks through a volume; None = `model` if it has memory, else the built-in one.
        config: what is tuned and how; what it leaves open is decided by the model and the number of shots.
        on_step: told about progress.

    Raises:
        InputError: no shots, or none with a label.
        AdapterError: what is to be tuned is not in the model.
    """
    report = on_step or silent
    if not shots:
        raise InputError("There is no annotated slice to learn from.", "Check the folder with: amsam adapt --dry-run")
    began = time.monotonic()
    slice_model, volume_model = _resolve(model, memory_model)
    config = config or AdapterConfig()
    decided = _decide(config, slice_model, shots)
    lesson = _paced(prepare(shots, slice_model, volume_model, decided, report), config)
    encoded = time.monotonic()
    adapter = _learn(lesson, report, "adapt")
    learned = time.monotonic()
    expected = _forecast(lesson, report) if config.forecast else None
    remarks = _remarks(adapter, expected)
    if expected and not expected.helps and not adapter.changes.is_empty:
        adapter = _learn(_untuned(lesson), report, "adapt")
        remarks = (*remarks, "Tuning did not clearly help on the shots held out, so the model was left as it is.")
    elif expected and not adapter.changes.is_empty:
        adapter = _weighed(adapter, expected)
    seconds = {"encode": encoded - began, "adapt": learned - encoded, "forecast": time.monotonic() - learned}
    record = replace(
        adapter.record,
        forecast=_reported(expected),
        seconds={stage: round(value, 2) for stage, value in seconds.items()},
        warnings=(*adapter.record.warnings, *remarks),
    )
    return replace(adapter, record=record)


def _resolve(
    model: PromptableModel | str, memory_model: MemoryModel | str | None
) -> tuple[PromptableModel, MemoryModel]:
    """Return both models, loaded where they are named."""
    if isinstance(model, str):
        model = models.load(model)
    if memory_model is None:
        memory_model = model if isinstance(model, MemoryModel) else "builtin"
    if isinstance(memory_model, str):
        loaded = models.load(memory_model, str(model.device))
        if not isinstance(loaded, MemoryModel):
            message = f"Model '{memory_model}' has no memory, so it cannot carry masks through a volume."
            raise InputError(message, "Choose --memory-model builtin or a SAM 2 model")
        memory_model = loaded
    return model, memory_model


def _decide(config: AdapterConfig, model: PromptableModel, shots: Sequence[Shot]) -> AdapterConfig:
    """Return the configuration with what it leaves open decided."""
    tuned = config.tune or _usual_tune(model, shots)
    if config.preset == "paper" and tuned not in ("lora", "decoder"):
        message = f"The paper's settings leave the encoder as it is, which --tune {tuned} does not."
        raise InputError(message, "Leave --preset out, or take --tune lora or decoder")
    is_wide = tuned in ("encoder", "full")
    usual = FULL_STEPS if is_wide else max(120, 30 * len(shots))
    if config.preset == "paper":
        usual = PUBLISHED_EPOCHS * max(1, len(shots) // 2)
    return replace(
        config,
        tune=tuned,
        steps=usual if config.steps is None else config.steps,
        side=config.side or (_half_side(model) if tuned == "full" else None),
        bilevel=config.bilevel or "off",
        episodes=config.episodes and len(shots) >= ENOUGH,
    )


def _paced(lesson: Lesson, asked: AdapterConfig) -> Lesson:
    """Return the lesson with more steps where it shows more, unless steps were asked for."""
    if asked.steps is not None or not lesson.recipe.finer:
        return lesson
    return replace(lesson, config=replace(lesson.config, steps=FINE_STEPS))


def _half_side(model: PromptableModel) -> int | None:
    """Return half the frame side, where every weight is tuned: a step costs a quarter, and there can be more."""
    half = model.image_size // 2
    return half if isinstance(model, Resizable) and half % models.STRIDE == 0 else None


def _usual_tune(model: PromptableModel, shots: Sequence[Shot]) -> Tune:
    """Return what did best: every weight of a small model, where each label is large enough for a small frame."""
    weights = sum(parameter.numel() for parameter in model.network.parameters())
    is_small = weights <= SMALL and isinstance(model, MemoryModel)
    return "full" if is_small and _smallest_share(shots) >= LARGE else "lora"


def _smallest_share(shots: Sequence[Shot]) -> float:
    """Return the share of the frame that the smallest label covers in the middle one of the shots that show it."""
    shares: dict[int, list[float]] = {}
    for shot in shots:
        _, spacing_h, spacing_w = shot.volume.geometry.spacing
        _, height, width = shot.volume.geometry.shape
        frame = max(height * spacing_h, width * spacing_w) ** 2
        for value in shot.labels.values():
            shares.setdefault(value, []).append(float(shot.labels.mask(value).sum()) * spacing_h * spacing_w / frame)
    return min((float(np.median(found)) for found in shares.values()), default=0.0)


def _learn(lesson: Lesson, report: OnStep, stage: str) -> Adapter:
    """Return the adapter of these shots."""
    surveys = tuple(explore(lesson, examples) for examples in lesson.scales()) if lesson.kept else ()
    with at_side(lesson.model, lesson.recipe.image_size, plain=lesson.is_published):
        learned = tune(lesson, surveys, report, stage)
    with attached(lesson.model, lesson.config, learned.changes):
        before = surveys if learned.changes.is_empty else ()  # what was seen before is what is seen now
        whole, *zoomed = (
            _sight(lesson, before[scale] if before else explore(lesson, examples), learned)
            for scale, examples in enumerate(lesson.scales())
        )
    return Adapter(
        backbone=lesson.backbone,
        memory_backbone=lesson.backbone if lesson.remembers_itself else Backbone.of(lesson.memory_model),
        labels=lesson.labels,
        recipe=lesson.recipe,
        config=lesson.config,
        changes=learned.changes,
        dense=learned.dense,
        whole=whole,
        zoomed=zoomed[0] if zoomed else None,
        record=Record(shots=tuple(still.shot.origin for still in lesson.stills), trainable=learned.trainable),
        reader=Backbone.of(lesson.reader) if lesson.reader else None,
    )


def _sight(lesson: Lesson, survey: Survey, learned: Learned) -> Sight:
    """Return what an adapter keeps of a survey, looks counting by what they say of the shots now."""
    evidence = look_back(lesson, survey, learned.dense, learned.changes.channels)
    return weigh(survey.sight, evidence, is_held_out=len(survey.examples) > 1)


def _weighed(adapter: Adapter, expected: Forecast) -> Adapter:
    """Return an adapter whose looks count by what refits said of the shots they were kept from."""
    scales = zip(adapter.sights.items(), expected.evidence, strict=False)
    weighed: dict[str, Any] = {scale: weigh(sight, evidence) for (scale, sight), evidence in scales}
    return replace(adapter, **weighed)


def _untuned(lesson: Lesson) -> Lesson:
    """Return the lesson of which only memories and prompts' places are taken."""
    return replace(lesson, config=replace(lesson.config, steps=0))


def _forecast(lesson: Lesson, report: OnStep) -> Forecast | None:
    """Return the Dice on shots held out, with tuning and, where that is another thing and may be undone, without."""
    share = FINE_FOLD_STEPS if lesson.recipe.finer else FOLD_STEPS
    shorter = round(share * (lesson.config.steps or 0))

    def learn(kept: Lesson) -> Adapter:
        return _learn(replace(kept, config=replace(kept.config, steps=shorter)), silent, "forecast")

    def learn_plain(kept: Lesson) -> Adapter:
        return _learn(_untuned(kept), silent, "forecast")

    return hold_out(lesson, learn, learn_plain if shorter and not lesson.is_published else None, report)


def _reported(expected: Forecast | None) -> dict[int, float] | None:
    """Return the forecast of what is kept: tuned, or untuned where that did better."""
    if expected is None:
        return None
    return dict(expected.tuned if expected.helps else expected.plain)


def _remarks(adapter: Adapter, expected: Forecast | None) -> tuple[str, ...]:
    """Return what the user should know before trusting the adapter."""
    remarks = []
    names = [*adapter.labels.values()]
    if adapter.config.forecast and expected is None:
        remarks.append("One shot only: nothing could be held out, so there is no forecast.")
    foretold = adapter.labels if expected is None else expected.tuned
    for name in [name for value, name in adapter.labels.items() if value not in foretold]:
        remarks.append(f"No slice is left that shows '{name}' when some are held out, so there is no forecast of it.")
    for name, trust in zip(names, adapter.whole.trust, strict=True):
        if max(trust.prior, trust.slice, trust.support) < COLLAPSED:
            remarks.append(f"'{name}' was not learned: its own shots are found with a Dice of {trust.slice:.2f}.")
    for value, overlap in (_reported(expected) or {}).items():
        if overlap < 0.5:
            remarks.append(f"'{adapter.labels[value]}' reached a Dice of only {overlap:.2f} when held out.")
    return tuple(remarks)
