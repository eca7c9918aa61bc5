from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from amsam_cli import adaptation
from amsam_cli.adaptation import adapt, choose, sights
from amsam_cli.adaptation.episodes import KeptEpisodes, KeptRows
from amsam_cli.adaptation.forecast import Forecast
from amsam_cli.adaptation.lesson import FROZEN_VIEWS
from amsam_cli.adapter import AdapterConfig, Tune
from amsam_cli.errors import InputError
from amsam_cli.io import Pair
from amsam_cli.methods.bilevel import Order
from amsam_cli.volume import LabelMap, Shot
from tests.scans import OTHER, ball_shot
from tests.toy import ToyModel

QUICK = AdapterConfig(steps=4, forecast=False)


def without(shot: Shot, value: int) -> Shot:
    """Return a shot that does not show a label."""
    data = np.where(shot.labels.data == value, 0, shot.labels.data).astype(np.uint16)
    return replace(shot, labels=LabelMap(data, shot.labels.geometry, shot.labels.names))


@dataclass(frozen=True)
class Slice:
    """As much of a candidate as `choose` looks at."""

    patient: str
    position: float
    areas: Mapping[int, int]

    @property
    def pair(self) -> Pair:
        return Pair(Path(f"{self.patient}.nii.gz"), Path(f"{self.patient}_seg.nii.gz"), self.patient)

    @property
    def origin(self) -> str:
        return f"{self.patient}:{self.position}"


def test_choose_covers_every_label():
    common = [Slice("a", i / 10, {1: 500}) for i in range(8)]
    rare = Slice("a", 0.95, {2: 30})

    chosen = choose([*common, rare], 2)

    assert rare in chosen


def test_choose_spreads_over_patients():
    candidates = [Slice(patient, i / 10, {1: 100}) for patient in "abcd" for i in range(5)]

    chosen = choose(candidates, 4)

    assert {candidate.patient for candidate in chosen} == set("abcd")


def test_choose_spreads_over_depth_within_one_patient():
    candidates = [Slice("a", i / 20, {1: 100}) for i in range(21)]

    chosen = choose(candidates, 3)

    positions = sorted(candidate.position for candidate in chosen)
    assert min(np.diff(positions)) >= 0.25


def test_choose_takes_small_cross_sections_beside_large_ones():
    candidates = [Slice("a", i / 20, {1: 1 + i * i}) for i in range(21)]

    areas = sorted(candidate.areas[1] for candidate in choose(candidates, 4))

    assert areas[0] < 30
    assert areas[-1] > 200


def test_choose_compares_only_some_of_a_great_many_and_keeps_the_rare_ones():
    common = [Slice("a", i / 5000, {1: 500}) for i in range(5000)]
    rare = Slice("a", 0.1, {2: 30})

    assert rare in choose([*common, rare], 3)


def test_choose_does_not_depend_on_the_order_of_the_files():
    candidates = [Slice(patient, i / 10, {1: 100 + i, 2: 50 - i}) for patient in "abc" for i in range(6)]

    first = choose(candidates, 4)
    second = choose(candidates[::-1], 4)

    assert first == second


def test_choose_takes_all_when_there_are_fewer():
    candidates = [Slice("a", 0.5, {1: 10})]

    assert choose(candidates, 4) == candidates


def test_adapt_learns_every_label_of_the_shots():
    adapter = adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=QUICK)

    assert adapter.labels == {1: "ball", 2: "other"}
    assert adapter.dense.shape == (2, 8)
    assert adapter.whole.bank.maps.shape[:2] == (2, 2)
    assert adapter.record.shots == ("scan_0.nii.gz:4", "scan_1.nii.gz:4")
    assert adapter.recipe.plane == "axial"


def test_adapt_with_the_same_seed_gives_the_same_adapter():
    shots = [ball_shot(0), ball_shot(1)]

    first = adapt(shots, ToyModel(), config=QUICK)
    second = adapt(shots, ToyModel(), config=QUICK)
    other = adapt(shots, ToyModel(), config=AdapterConfig(steps=4, forecast=False, seed=1))

    assert first.sha256 == second.sha256
    assert first.sha256 != other.sha256


def test_adapt_without_steps_trains_nothing_but_remembers_the_shots():
    adapter = adapt([ball_shot(0)], ToyModel(), config=AdapterConfig(steps=0, forecast=False))

    assert adapter.changes.is_empty
    assert not adapter.record.trainable
    assert adapter.whole.bank.prototypes.present.all()


def test_adapt_reports_what_it_trained():
    adapter = adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=replace(QUICK, tune="encoder"))

    assert adapter.record.trainable["prompts"] == 2 * 8
    assert adapter.record.trainable["decoder LoRA"] > 0
    assert adapter.record.trainable["encoder LoRA"] > 0
    assert adapter.record.trainable["calibration"] == 8 * 8 + 8 + 8 + 1


def test_adapt_forecasts_on_patients_it_did_not_see():
    seen: list[str] = []
    shots = [ball_shot(seed) for seed in (0, 1, 2)]

    adapter = adapt(
        shots,
        ToyModel(image_size=128),
        config=AdapterConfig(steps=60, learning_rate=0.03, tune="lora"),
        on_step=lambda stage, done, total: seen.append(f"{stage} {done}/{total}"),
    )

    assert adapter.record.forecast is not None
    assert adapter.record.forecast[1] > 0.5
    assert "forecast 3/3" in seen


def shuffled(seed: int) -> Shot:
    """Return a shot whose labels are strewn over its slice."""
    shot = ball_shot(seed)
    rng = np.random.default_rng(seed)
    data = rng.permutation(shot.labels.data.reshape(-1)).reshape(shot.labels.data.shape)
    labels = LabelMap(data, shot.labels.geometry, shot.labels.names)
    return Shot(shot.volume, labels, shot.scan, shot.origin, shot.patient, shot.position)


def test_label_that_one_patient_has_is_learned_and_has_no_forecast():
    shots = [ball_shot(0), without(ball_shot(1), OTHER)]

    adapter = adapt(shots, ToyModel(), config=AdapterConfig(steps=4))

    assert adapter.labels == {1: "ball", 2: "other"}
    assert list(adapter.record.forecast or {}) == [1]
    remark = "No slice is left that shows 'other' when some are held out, so there is no forecast of it."
    assert remark in adapter.record.warnings


def test_forecast_falls_when_the_labels_are_wrong():
    adapter = adapt([shuffled(seed) for seed in (0, 1)], ToyModel(), config=AdapterConfig(steps=20))

    assert adapter.record.forecast is not None
    assert max(adapter.record.forecast.values()) < 0.3
    assert any("when held out" in warning for warning in adapter.record.warnings)


@pytest.mark.parametrize("tune", ["lora", "decoder", "encoder", "full"])
@pytest.mark.parametrize("bilevel", ["first", "unrolled", "off"])
def test_every_way_of_tuning_changes_the_model(tune: Tune, bilevel: Order):
    config = AdapterConfig(steps=2, forecast=False, tune=tune, bilevel=bilevel)

    adapter = adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=config)

    untuned = ToyModel().no_prompt().expand(2, -1)
    assert not adapter.changes.is_empty
    assert not torch.equal(adapter.dense, untuned)
    assert any(tensor.abs().max() > 0 for tensor in adapter.changes.calibration.values())


def test_every_weight_is_tuned_where_labels_are_large():
    adapter = adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=QUICK)

    assert adapter.config.tune == "full"
    assert adapter.recipe.image_size == 32


def test_lora_is_tuned_where_a_label_is_small():
    shots = [ball_shot(0), ball_shot(1)]
    data = np.zeros_like(shots[0].labels.data)
    data[0, 20:23, 20:23] = OTHER  # 9 of 2304 pixels
    small = replace(shots[0], labels=LabelMap(data, shots[0].labels.geometry, shots[0].labels.names))

    adapter = adapt([small, replace(small, patient="other")], ToyModel(), config=QUICK)

    assert adapter.config.tune == "lora"
    assert adapter.recipe.image_size == 64


def test_two_levels_work_with_one_shot():
    adapter = adapt([ball_shot(0)], ToyModel(), config=replace(QUICK, bilevel="unrolled", tune="lora"))

    assert not adapter.changes.is_empty


def test_levels_learn_from_halves_that_are_drawn_anew_in_every_step(monkeypatch: pytest.MonkeyPatch):
    halves: list[tuple[int, ...]] = []
    draw = KeptEpisodes.draw

    def spy(self: KeptEpisodes, shots: Sequence[int]) -> KeptRows:
        batch = draw(self, shots)
        assert set((batch.frames // FROZEN_VIEWS).tolist()) <= set(shots)
        halves.append(tuple(shots))
        return batch

    monkeypatch.setattr(KeptEpisodes, "draw", spy)
    config = replace(QUICK, bilevel="first", tune="lora", steps=12)

    adapt([ball_shot(seed) for seed in range(4)], ToyModel(), config=config)

    steps = list(zip(halves[::2], halves[1::2], strict=True))
    assert all(sorted(one + other) == [0, 1, 2, 3] for one, other in steps)
    assert len(set(steps)) > 2


def test_frozen_encoder_sees_every_view_once(monkeypatch: pytest.MonkeyPatch):
    frames: list[int] = []
    encode = ToyModel.encode
    monkeypatch.setattr(ToyModel, "encode", lambda self, pixels: frames.append(len(pixels)) or encode(self, pixels))

    adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=replace(QUICK, tune="lora"))

    assert sum(frames) == 2 * FROZEN_VIEWS


def test_every_probe_is_fitted_once_for_fit_and_forecast(monkeypatch: pytest.MonkeyPatch):
    fitted: list[int] = []
    fit = sights.fit_probe
    monkeypatch.setattr(sights, "fit_probe", lambda *args, **more: fitted.append(1) or fit(*args, **more))

    adapt([ball_shot(seed) for seed in range(3)], ToyModel(), config=AdapterConfig(steps=2, tune="lora"))

    # Of all three shots, of each pair (the others of one shot, or a fold), of each alone (the others within a fold).
    assert len(fitted) == 1 + 3 + 3


def test_tuning_that_does_not_help_is_undone_and_said(monkeypatch: pytest.MonkeyPatch):
    worse = Forecast(tuned={1: 0.3, 2: 0.2}, plain={1: 0.6, 2: 0.1}, gains=(-0.3, 0.1))
    monkeypatch.setattr(adaptation, "hold_out", lambda *_: worse)

    adapter = adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=AdapterConfig(steps=2))

    assert adapter.changes.is_empty
    assert adapter.record.forecast == {1: 0.6, 2: 0.1}
    assert any("left as it is" in warning for warning in adapter.record.warnings)


def test_tuning_that_helps_is_kept(monkeypatch: pytest.MonkeyPatch):
    better = Forecast(tuned={1: 0.7, 2: 0.2}, plain={1: 0.6, 2: 0.1}, gains=(0.1, 0.1))
    monkeypatch.setattr(adaptation, "hold_out", lambda *_: better)

    adapter = adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=AdapterConfig(steps=2))

    assert not adapter.changes.is_empty
    assert adapter.record.forecast == {1: 0.7, 2: 0.2}


@pytest.mark.parametrize(
    ("patients", "tune", "is_halved"), [(2, "lora", True), (3, "lora", False), (3, "full", True), (4, "full", True)]
)
def test_refits_from_half_of_the_shots_are_told_from_others(
    monkeypatch: pytest.MonkeyPatch, patients: int, tune: Tune, is_halved: bool
):
    seen: list[Forecast | None] = []
    hold_out = adaptation.hold_out
    monkeypatch.setattr(adaptation, "hold_out", lambda *given: seen.append(hold_out(*given)) or seen[-1])

    adapt([ball_shot(seed) for seed in range(patients)], ToyModel(), config=AdapterConfig(steps=2, tune=tune))

    assert seen[0]
    assert seen[0].is_halved == is_halved


def test_label_that_was_not_learned_raises_the_alarm():
    shots = [shuffled(seed) for seed in (0, 1)]

    adapter = adapt(shots, ToyModel(), config=AdapterConfig(steps=0, forecast=False, tune="lora"))

    assert any("was not learned" in warning for warning in adapter.record.warnings)


def test_one_shot_gives_an_adapter_and_no_forecast():
    adapter = adapt([ball_shot(0)], ToyModel(), config=AdapterConfig(steps=2))

    assert adapter.record.forecast is None
    assert any("One shot" in warning for warning in adapter.record.warnings)


def test_adapt_refuses_to_learn_from_nothing():
    with pytest.raises(InputError, match="no annotated slice"):
        adapt([], ToyModel())


def test_adapt_refuses_shots_without_a_label():
    shot = ball_shot(0)
    empty = LabelMap(np.zeros_like(shot.labels.data), shot.labels.geometry)

    with pytest.raises(InputError, match="labelled pixel"):
        adapt([Shot(shot.volume, empty, shot.scan, shot.origin, shot.patient)], ToyModel())


def test_adapt_looks_closer_where_the_labels_are_small():
    adapter = adapt([ball_shot(seed, margin=60) for seed in (0, 1)], ToyModel(), config=QUICK)

    assert adapter.recipe.zoom is not None
    assert adapter.zoomed is not None
    whole, zoomed = (sight.bank.masks.mean() for sight in (adapter.whole, adapter.zoomed))
    assert zoomed > 3 * whole  # the balls fill more of the frame


def test_adapt_looks_at_whole_slices_at_the_models_own_side_where_all_of_it_learns_on_smaller_frames():
    model = ToyModel()
    shots = [ball_shot(seed, margin=8) for seed in range(2)]

    adapter = adapt(shots, model, config=AdapterConfig(steps=4, tune="full"))

    assert (adapter.recipe.image_size, adapter.recipe.finer, adapter.recipe.zoom) == (32, 64, None)
    assert adapter.zoomed is not None
    assert adapter.zoomed.bank.maps.shape[-1] == 2 * adapter.whole.bank.maps.shape[-1]
    assert model.image_size == 64


@pytest.mark.parametrize(("margin", "asked", "taken"), [(8, None, 3), (8, 2, 2), (0, None, 4)])
def test_adapt_takes_more_steps_where_views_are_cut_from_fine_frames(
    margin: int, asked: int | None, taken: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("amsam_cli.adaptation.FINE_STEPS", 3)
    monkeypatch.setattr("amsam_cli.adaptation.FULL_STEPS", 4)
    shots = [ball_shot(seed, margin=margin) for seed in range(2)]

    adapter = adapt(shots, ToyModel(), config=AdapterConfig(steps=asked, tune="full", forecast=False))

    assert adapter.config.steps == taken


def test_adapt_does_not_look_closer_where_the_labels_fill_the_slice():
    adapter = adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=QUICK)

    assert adapter.recipe.zoom is None
    assert adapter.zoomed is None
