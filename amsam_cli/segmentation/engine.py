"""The whole way from a scan and an adapter to a label map. Knows no files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from amsam_cli import models
from amsam_cli.adapter import Adapter, Sight
from amsam_cli.methods.confidence import expected_dice
from amsam_cli.models.base import MemoryModel, OnStep, PromptableModel, at_side, silent
from amsam_cli.preprocess import Placement
from amsam_cli.segmentation.asking_back import ask_back
from amsam_cli.segmentation.closeup import place_to_zoom
from amsam_cli.segmentation.components import Witness, tidy
from amsam_cli.segmentation.fusion import Fused, fuse
from amsam_cli.segmentation.looks import (
    Asked,
    Look,
    automatic_prompts,
    look_at_prior,
    look_at_slices,
    look_at_supports,
)
from amsam_cli.segmentation.merging import Found, log_odds, merge
from amsam_cli.segmentation.plan import Plan
from amsam_cli.segmentation.scene import Place, Scene
from amsam_cli.segmentation.tracking import key_slices, track
from amsam_cli.volume import LabelMap, Volume


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """What `segment` found.

    Attributes:
        labels: the label map on the volume's own grid.
        confidence: label value -> (D,) in [0, 1], the Dice to be expected of the mask on each slice, or how sure it is
            that there is none; 0 for a mask that the closer look did not see.
        expected_dice: label value -> the Dice to be expected of its whole mask, as `methods.confidence` estimates it
            without knowing any truth; 0 for a label that was not found.
        seeds: label value -> slices from which it was carried through the volume.
        warnings: what the user should know.
        probabilities: label value -> (D, H, W) float16 in [0, 1]; with the background's they sum to one at each voxel.
            Empty unless asked for.
        prompts: label value -> (D, 3, 2) xy in voxels, the corners of the box and the click each slice was asked with;
            NaN for what it was asked without.
    """

    labels: LabelMap
    confidence: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    seeds: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    probabilities: Mapping[int, NDArray[np.float16]] = field(default_factory=dict)
    prompts: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    expected_dice: Mapping[int, float] = field(default_factory=dict)


def segment(
    volume: Volume,
    adapter: Adapter,
    model: PromptableModel | None = None,
    *,
    memory_model: MemoryModel | None = None,
    plan: Plan | None = None,
    on_step: OnStep | None = None,
) -> Segmentation:
    """Return the labels of `volume`, on its own grid, as the adapter's shots taught.

    Args:
        volume: read with the plane of `adapter.recipe`.
        adapter: from `adapt` or `Adapter.load`.
        model: the adapter's backbone; loaded when None.
        memory_model: the adapter's memory backbone; loaded when None.
        plan: which ways of looking take part, and what to return; None = all that help.
        on_step: told about progress.

    Raises:
        AdapterError: the adapter was made for another model.
    """
    model = model or models.load(adapter.backbone.name)
    both = (model, memory_model or _memory_model_of(adapter, model))
    plan = plan or Plan()
    if adapter.config.preset == "paper" and plan.is_full:
        plan = plan.alone()
    report, warnings = on_step or silent, []
    try:
        passes = _attached(volume, adapter, both, plan, report)
    except torch.OutOfMemoryError:
        if model.device.type == "cpu":
            raise
        warnings.append(f"{model.device} ran out of memory, so the scan was segmented on the processor.")
        with _on_processor(*both):
            passes = _attached(volume, adapter, both, plan, report)
    names = dict(adapter.labels)
    found = [Found(each.fused.logits, each.place, each.placement) for each in passes]
    last = passes[-1]
    labels, probabilities = merge(found, volume, names, with_probabilities=plan.probabilities)
    if plan.tidies:
        labels = _tidied(labels, probabilities, found, volume, adapter)
    expected = _expected(last, adapter, names)
    return Segmentation(
        labels,
        _confidence(last, labels, expected),
        _seeds(last, names),
        (*warnings, *_remarks(labels, names)),
        probabilities,
        _prompts(last, volume, names),
        expected,
    )


def _attached(
    volume: Volume, adapter: Adapter, both: tuple[PromptableModel, MemoryModel], plan: Plan, report: OnStep
) -> list[_Pass]:
    """Return what was found with the adapter in its model."""
    with torch.no_grad(), adapter.attach(both[0]):
        return _look_twice(volume, adapter, both, plan, report)


@contextmanager
def _on_processor(*some: PromptableModel) -> Iterator[None]:
    """Keep models on the processor for the time of the block."""
    homes = [model.device for model in some]
    try:
        for model in some:
            model.network.to("cpu")
        yield
    finally:
        for model, home in zip(some, homes, strict=True):
            model.network.to(home)


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """What one look over the scan, whole or closer, came to."""

    place: Place
    placement: Placement
    sight: Sight
    fused: Fused
    keys: list[list[int]]
    asked: Asked | None
    reverse: Sequence[float | None] = ()


def _look_twice(
    volume: Volume, adapter: Adapter, both: tuple[PromptableModel, MemoryModel], plan: Plan, report: OnStep
) -> list[_Pass]:
    """Return what the first look found, and the closer one where there is something to look closer at."""
    scene = Scene.of(volume, Place.whole(volume), adapter, both, plan, report)
    first = _look_over(scene, plan, report)
    looks_closer = plan.zooms and adapter.zoomed is not None
    place = place_to_zoom(scene, first.fused.logits, volume, adapter.recipe.zoom) if looks_closer else None
    if place is None:
        return [_checked(first, scene, plan)]
    del scene  # its features make room for those of the second pass
    with at_side(both[0], adapter.recipe.closer.image_size):
        closer = Scene.of(volume, place, adapter, both, plan, report)
        return [first, _checked(_look_over(closer, plan, report), closer, plan)]


def _checked(found: _Pass, scene: Scene, plan: Plan) -> _Pass:
    """Return a pass with the Dice of the shots, segmented from what it found."""
    reverse = ask_back(scene, found.fused.logits) if plan.asks_back else [None] * scene.labels
    return replace(found, reverse=reverse)


def _look_over(scene: Scene, plan: Plan, report: OnStep) -> _Pass:
    """Return what all the ways of looking that the plan names find in a scene."""
    report("segment", 0, 3)
    prior = scene.priors()
    looks: dict[str, Look] = {}
    if plan.prior:
        looks["prior"] = look_at_prior(scene, prior)
    asked = automatic_prompts(scene, prior) if plan.slices else None
    if asked:
        looks["slice"] = look_at_slices(scene, asked)
    report("segment", 1, 3)
    if plan.supports:
        looks["support"] = look_at_supports(scene, prior, plan)
    report("segment", 2, 3)
    keys: list[list[int]] = [[] for _ in range(scene.labels)]
    if plan.tracks and scene.depth > 1:
        keys = key_slices([*looks.values()])
        tracked = track(scene, [*looks.values()][-1], keys, prior, plan)
        looks = tracked if tracked and plan.only_tracks else looks | tracked
    report("segment", 3, 3)
    return _Pass(scene.place, scene.placement, scene.sight, fuse(looks, scene.sight.blends), keys, asked)


def _tidied(
    labels: LabelMap,
    probabilities: Mapping[int, NDArray[np.float16]],
    found: Sequence[Found],
    volume: Volume,
    adapter: Adapter,
) -> LabelMap:
    """Return the labels in as many pieces, and with holes or without, as the shots have them."""
    shapes = dict(zip(adapter.labels, adapter.whole.shapes, strict=True))
    columns = {value: column for column, value in enumerate(adapter.labels)}

    def of(value: int, slices: slice) -> NDArray[np.float32]:
        return log_odds(found, volume, columns[value], slices)

    return tidy(labels, shapes, adapter.whole.together, probabilities, Witness(of, found[0].placement))


def _memory_model_of(adapter: Adapter, model: PromptableModel) -> MemoryModel:
    """Return the model itself where it is its own memory, else the adapter's other one."""
    if adapter.memory_backbone == adapter.backbone and isinstance(model, MemoryModel):
        return model
    loaded = models.load(adapter.memory_backbone.name, str(model.device))
    assert isinstance(loaded, MemoryModel)
    return loaded


def _expected(passed: _Pass, adapter: Adapter, names: Mapping[int, str]) -> dict[int, float]:
    """Return the Dice to be expected of each label's mask; 0 where there is none."""
    gauges = passed.sight.gauges
    forecast = adapter.record.forecast or {}
    expected = {}
    for column, (value, own) in enumerate(zip(names, passed.fused.own_of_labels().tolist(), strict=True)):
        gauge = gauges[column] if gauges else None
        reverse = passed.reverse[column]
        expected[value] = expected_dice(own, gauge, forecast=forecast.get(value), reverse=reverse) if own else 0.0
    return expected


def _confidence(passed: _Pass, labels: LabelMap, expected: Mapping[int, float]) -> dict[int, NDArray[np.float32]]:
    """Return how sure the mask is on each slice of the scan; 1 where neither mask is nor the last pass looked.

    A mask on a slice is as much surer than the whole as it is by its own probabilities.
    """
    fused, whole = passed.fused, torch.tensor([*expected.values()])
    slices = (whole * (fused.own - fused.own_of_labels()).exp()).clamp(0, 1)
    found = torch.where(fused.painted, slices, 1 - fused.presence.clamp(0, 1)).numpy()
    seen = slice(passed.place.first, passed.place.first + passed.place.depth)
    confidence = {}
    for column, value in enumerate(expected):
        unseen = np.array([(each == value).any() for each in labels.data])
        unseen[seen] &= ~fused.painted[:, column].numpy()
        row = np.ones(len(unseen), dtype=np.float32)
        row[seen] = found[:, column]
        row[unseen] = 0
        confidence[value] = row
    return confidence


def _seeds(passed: _Pass, names: Mapping[int, str]) -> dict[int, tuple[int, ...]]:
    """Return each label's key slices, counted in the scan, the best first; labels without one are left out."""
    return {
        value: tuple(passed.place.first + key for key in keys)
        for value, keys in zip(names, passed.keys, strict=True)
        if keys
    }


def _prompts(passed: _Pass, volume: Volume, names: Mapping[int, str]) -> dict[int, NDArray[np.float32]]:
    """Return where each label was asked for on each slice of the scan, in its voxels."""
    if passed.asked is None:
        return {}
    place, placement = passed.place, passed.placement
    points = placement.to_slice(passed.asked.points.float().cpu().numpy())
    points += (place.window.left, place.window.top) if place.window else (0, 0)
    points[passed.asked.kinds.cpu().numpy() < 0] = np.nan
    found = np.full((volume.depth, *points.shape[1:]), np.nan, dtype=np.float32)
    found[place.first : place.first + place.depth] = points
    return {value: found[:, column] for column, value in enumerate(names)}


def _remarks(labels: LabelMap, names: Mapping[int, str]) -> tuple[str, ...]:
    """Return a warning for each label that was not found anywhere."""
    found = set(labels.values())
    return tuple(f"No '{name}' was found." for value, name in names.items() if value not in found)
