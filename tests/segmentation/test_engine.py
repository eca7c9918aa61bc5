from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from amsam_cli.adaptation import adapt
from amsam_cli.adapter import Adapter, AdapterConfig
from amsam_cli.errors import AdapterError
from amsam_cli.methods.prompts import Detection
from amsam_cli.metrics import dice
from amsam_cli.models.base import Embedding
from amsam_cli.segmentation import MODES, Mode, Plan, segment
from amsam_cli.segmentation.scene import Place
from amsam_cli.volume import Geometry, LabelMap, Shot, Volume, Window
from tests.scans import BALL, OTHER, ball_scan, ball_shot
from tests.toy import ToyModel


@pytest.fixture(scope="module")
def model() -> ToyModel:
    return ToyModel(image_size=128)


@pytest.fixture(scope="module")
def adapter(model: ToyModel) -> Adapter:
    shots = [ball_shot(0), ball_shot(1), ball_shot(2, index=3)]
    return adapt(shots, model, config=AdapterConfig(steps=200, learning_rate=0.03, forecast=False))


def test_segment_finds_the_object_in_a_new_patient(adapter: Adapter, model: ToyModel):
    volume, truth = ball_scan(7)

    result = segment(volume, adapter, model)

    assert dice(result.labels.mask(BALL), truth.mask(BALL)) > 0.7


def test_segment_answers_on_the_grid_of_the_scan(adapter: Adapter, model: ToyModel):
    volume, _ = ball_scan(7, depth=5, side=37)

    result = segment(volume, adapter, model)

    assert result.labels.geometry is volume.geometry
    assert result.labels.data.shape == (5, 37, 37)
    assert result.labels.data.dtype == np.uint16
    assert result.labels.names == {BALL: "ball", OTHER: "other"}


def test_segment_gives_each_label_a_confidence_per_slice(adapter: Adapter, model: ToyModel):
    volume, _ = ball_scan(7)

    result = segment(volume, adapter, model)

    assert set(result.confidence) == {BALL, OTHER}
    for confidence in result.confidence.values():
        assert confidence.shape == (9,)
        assert ((confidence >= 0) & (confidence <= 1)).all()


def test_segment_starts_from_a_slice_that_shows_the_object(adapter: Adapter, model: ToyModel):
    volume, truth = ball_scan(7)

    result = segment(volume, adapter, model)

    assert truth.mask(BALL)[result.seeds[BALL][0]].any()


@pytest.mark.parametrize("depth", [1, 2], ids=["one slice", "two slices"])
def test_segment_takes_very_short_scans(adapter: Adapter, model: ToyModel, depth: int):
    volume, truth = ball_scan(7)
    short, part = volume.part(4, 4 + depth), truth.data[4 : 4 + depth]

    result = segment(short, adapter, model)

    assert dice(result.labels.mask(BALL), part == BALL) > 0.6


def test_segment_gives_the_mirrored_answer_for_the_reversed_scan(adapter: Adapter, model: ToyModel):
    volume, _ = ball_scan(7)
    reversed_scan = Volume(volume.data[:, ::-1].copy(), volume.geometry, volume.range, volume.source)

    forward = segment(volume, adapter, model).labels.mask(BALL)
    backward = segment(reversed_scan, adapter, model).labels.mask(BALL)[::-1]

    assert dice(forward, backward) > 0.95


def test_segment_of_a_picture_needs_no_propagation(model: ToyModel):
    def picture(seed: int) -> tuple[Volume, LabelMap]:
        volume, labels = ball_scan(seed)
        geometry = Geometry.of_picture(48, 48)
        flat = Volume(volume.data[:, 4:5], geometry, volume.range)
        return flat, LabelMap(labels.data[4:5], geometry, labels.names)

    shots = [Shot(*picture(seed), lambda s=seed: picture(s)[0], f"{seed}.png", f"{seed}") for seed in (0, 1, 2)]
    learned = adapt(shots, model, config=AdapterConfig(steps=200, learning_rate=0.03, forecast=False))
    volume, truth = picture(7)

    result = segment(volume, learned, model)

    assert not result.seeds
    assert dice(result.labels.mask(BALL), truth.mask(BALL)) > 0.6


def test_segment_is_silent_unless_asked(adapter: Adapter, model: ToyModel, capsys: pytest.CaptureFixture[str]):
    volume, _ = ball_scan(7)
    stages: list[Sequence[object]] = []

    segment(volume, adapter, model, on_step=lambda *step: stages.append(step))

    assert capsys.readouterr() == ("", "")
    assert ("encode", 9, 9) in stages
    assert ("segment", 3, 3) in stages


def test_segment_says_when_a_label_was_not_found(adapter: Adapter, model: ToyModel):
    volume, _ = ball_scan(7)
    rng = np.random.default_rng(0)
    noise = Volume(rng.normal(100, 10, volume.data.shape).astype(np.float32), volume.geometry, (60, 140), volume.source)

    result = segment(noise, adapter, model)

    missing = {BALL, OTHER} - set(result.labels.values())
    assert len(result.warnings) == len(missing)


def test_segment_paints_little_beyond_the_object(adapter: Adapter, model: ToyModel):
    volume, truth = ball_scan(7, depth=27)  # seven slices of ball between ten of noise on either side

    found = segment(volume, adapter, model).labels.mask(BALL)

    shown = truth.mask(BALL).any(axis=(1, 2))
    assert found[shown].any(axis=(1, 2)).sum() >= shown.sum() - 2
    assert found[~shown].sum() <= 0.1 * truth.mask(BALL).sum()


def test_segment_refuses_a_model_the_adapter_was_not_made_for(adapter: Adapter):
    volume, _ = ball_scan(7)
    foreign = replace(adapter, backbone=replace(adapter.backbone, name="sam2.1-tiny"))

    with pytest.raises(AdapterError, match=r"made for sam2\.1-tiny"):
        segment(volume, foreign, ToyModel(), memory_model=ToyModel())


def test_segment_gives_probabilities_whose_highest_is_the_label(adapter: Adapter, model: ToyModel):
    volume, _ = ball_scan(7, depth=20)

    result = segment(volume, adapter, model, plan=Plan(probabilities=True))

    likely = np.stack([result.probabilities[BALL], result.probabilities[OTHER]]).astype(np.float32)
    everything = np.concatenate([1 - likely.sum(axis=0, keepdims=True), likely])
    second, first = np.sort(everything, axis=0)[-2:]
    clear = first - second > 5e-3  # float16 rounds ties away
    assert result.probabilities[BALL].dtype == np.float16
    assert everything.min() > -2e-3
    assert clear.mean() > 0.9
    assert (np.array([0, BALL, OTHER])[everything.argmax(axis=0)] == result.labels.data)[clear].all()


def test_segment_gives_no_probabilities_unless_asked(adapter: Adapter, model: ToyModel):
    assert segment(ball_scan(7, depth=2)[0], adapter, model).probabilities == {}


def test_detector_takes_the_place_of_the_prior(adapter: Adapter, model: ToyModel):
    volume, _ = ball_scan(7)
    asked: list[int] = []

    def detect(part: Volume) -> dict[int, list[Detection]]:
        asked.append(part.depth)
        return {BALL: [((10.0, 10.0, 20.0, 20.0), 0.9)]}

    plain = segment(volume, adapter, model, plan=Plan(prior=False, supports=False, tracks=False, zooms=False))
    shown = segment(
        volume, adapter, model, plan=Plan(prior=False, supports=False, tracks=False, zooms=False, detect=detect)
    )

    assert asked == [1] * 9
    assert not np.array_equal(plain.labels.data, shown.labels.data)


def test_segment_tells_where_it_asked(adapter: Adapter, model: ToyModel):
    volume, _ = ball_scan(7)
    box = (10.0, 12.0, 20.0, 24.0)

    result = segment(volume, adapter, model, plan=Plan(zooms=False, detect=lambda part: {BALL: [(box, 0.9)]}))

    assert result.prompts[BALL].shape == (9, 3, 2)
    assert np.allclose(result.prompts[BALL][:, :2], [[10, 12], [20, 24]], atol=1e-3)
    assert np.isnan(result.prompts[BALL][:, 2]).all()
    assert np.isnan(result.prompts[OTHER]).all()


def test_segment_finds_small_things_by_looking_closer(model: ToyModel):
    shots = [ball_shot(seed, margin=60) for seed in (0, 1, 2)]
    learned = adapt(shots, model, config=AdapterConfig(steps=0, forecast=False))
    volume, truth = ball_scan(7, margin=60)

    near, far = (segment(volume, learned, model, plan=Plan(zooms=zooms)).labels for zooms in (True, False))

    assert dice(near.mask(BALL), truth.mask(BALL)) > dice(far.mask(BALL), truth.mask(BALL)) - 0.05
    assert near.geometry is volume.geometry


def test_segment_finds_borders_by_looking_finer():
    model, shots = ToyModel(), [ball_shot(seed, margin=8) for seed in (0, 1, 2)]
    learned = adapt(shots, model, config=AdapterConfig(steps=0, tune="full", forecast=False))
    volume, truth = ball_scan(7, margin=8)

    near, far = (segment(volume, learned, model, plan=Plan(zooms=zooms)).labels for zooms in (True, False))

    assert learned.recipe.finer == model.image_size == 64
    for value in (BALL, OTHER):
        assert dice(near.mask(value), truth.mask(value)) > dice(far.mask(value), truth.mask(value))


@pytest.mark.parametrize("mode", MODES)
def test_segment_works_in_every_mode(adapter: Adapter, model: ToyModel, mode: Mode):
    volume, truth = ball_scan(7)

    result = segment(volume, adapter, model, plan=Plan.of(mode))

    assert result.labels.data.shape == truth.data.shape
    assert mode == "prior" or dice(result.labels.mask(BALL), truth.mask(BALL)) > 0.3
    assert bool(result.seeds) == (mode in ("track", "full"))


@pytest.mark.parametrize(
    ("depth", "height", "width", "spacing"),
    [
        pytest.param(5, 40, 90, (3.0, 1.0, 1.0), id="not square"),
        pytest.param(5, 48, 48, (10.0, 0.5, 0.5), id="anisotropic"),
        pytest.param(1000, 16, 16, (1.0, 1.0, 1.0), id="a thousand slices"),
    ],
)
def test_segment_takes_odd_volumes(adapter: Adapter, model: ToyModel, depth, height, width, spacing):
    data = np.random.default_rng(0).normal(100, 10, (1, depth, height, width)).astype(np.float32)
    volume = Volume(data, Geometry((depth, height, width), np.diag([*spacing, 1.0])), (50.0, 150.0))

    result = segment(volume, adapter, model)

    assert result.labels.data.shape == (depth, height, width)
    assert all(len(row) == depth for row in result.confidence.values())


def test_what_the_closer_look_did_not_see_stays_and_is_not_trusted(model: ToyModel, monkeypatch):
    shots = [ball_shot(seed, margin=72) for seed in range(3)]
    learned = adapt(shots, model, config=AdapterConfig(steps=120, learning_rate=0.03, forecast=False))
    volume, truth = ball_scan(7, margin=72)
    corner = Place(0, volume.depth, Window(0, 0, 24, 24), is_closer=True)
    monkeypatch.setattr("amsam_cli.segmentation.engine.place_to_zoom", lambda *_: corner)

    result = segment(volume, learned, model, plan=Plan(tidies=False))

    found = result.labels.mask(BALL)
    assert dice(found, truth.mask(BALL)) > 0.5
    unseen = found.any(axis=(1, 2)) & ~found[:, :24, :24].any(axis=(1, 2))
    assert unseen.any()
    assert (result.confidence[BALL][unseen] == 0).all()


def test_segment_says_what_dice_to_expect(adapter: Adapter, model: ToyModel):
    result = segment(ball_scan(7)[0], adapter, model)

    assert set(result.expected_dice) == {BALL, OTHER}
    assert all(0 <= value <= 1 for value in result.expected_dice.values())


def test_segment_is_the_same_with_features_on_disk(adapter: Adapter, model: ToyModel):
    volume, _ = ball_scan(7)

    held = segment(volume, adapter, model)
    stored = segment(volume, adapter, model, plan=Plan(max_memory_gib=0.0))

    np.testing.assert_array_equal(held.labels.data, stored.labels.data)


class Crowded(ToyModel):
    """A model on a device where not one frame fits; moved to the processor it works."""

    def __init__(self) -> None:
        super().__init__(image_size=128)
        self.moves: list[str] = []
        self._network.to = self._move  # type: ignore[method-assign]

    def _move(self, target: torch.device | str) -> None:
        self.moves.append(str(target))

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.moves[-1:] == ["cpu"] else "meta")

    def encode(self, pixels: torch.Tensor) -> Embedding:
        if pixels.is_meta:
            raise torch.OutOfMemoryError
        return super().encode(pixels)


def test_segment_goes_on_on_the_processor_where_a_device_is_too_small(model: ToyModel):
    adapter = adapt([ball_shot(0), ball_shot(1)], model, config=AdapterConfig(steps=0, forecast=False))
    crowded, (volume, _) = Crowded(), ball_scan(7)

    result = segment(volume, adapter, crowded)

    assert crowded.moves == ["cpu", "meta"] or crowded.moves == ["cpu", "cpu", "meta", "meta"]
    assert any("out of memory" in warning for warning in result.warnings)
    np.testing.assert_array_equal(result.labels.data, segment(volume, adapter, model).labels.data)
