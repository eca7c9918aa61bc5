"""The published settings of AM-SAM, on every family of models; weights are random, so only behaviour is tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from amsam_cli import adaptation
from amsam_cli.adaptation import adapt
from amsam_cli.adaptation.forecast import Forecast
from amsam_cli.adaptation.lesson import prepare
from amsam_cli.adaptation.published import PublishedEpisodes
from amsam_cli.adaptation.sights import explore
from amsam_cli.adapter import Adapter, AdapterConfig
from amsam_cli.adapter.changes import tuned
from amsam_cli.errors import InputError
from amsam_cli.models import builtin, load
from amsam_cli.models.base import Decoded, MemoryModel, PromptableModel, Prompts, at_side, silent
from amsam_cli.models.sam1 import VITS, Sam1, Vit, build_network
from amsam_cli.models.sam2 import Sam2
from amsam_cli.preprocess import Frames
from amsam_cli.segmentation import Plan, segment
from amsam_cli.volume import Geometry, LabelMap, Shot, Volume
from tests.scans import ball_scan, ball_shot
from tests.toy import ToyModel

SIDE = 64
TINY_VIT = Vit(width=32, depth=1, heads=2, global_blocks=(0,))
PAPER = replace(AdapterConfig.paper(), side=SIDE, steps=2, forecast=False)
MAKERS: dict[str, Callable[[], PromptableModel]] = {
    "toy": ToyModel,
    "sam1": lambda: Sam1(build_network(TINY_VIT, SIDE), "sam1"),
    "sam2": lambda: Sam2(builtin.build_network(), "builtin", SIDE),
}


@pytest.fixture(params=list(MAKERS))
def model(request: pytest.FixtureRequest) -> PromptableModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MAKERS[request.param]()


def memory_of(model: PromptableModel) -> MemoryModel:
    return model if isinstance(model, MemoryModel) else ToyModel()


def episodes_of(shots: int) -> PublishedEpisodes:
    model = ToyModel()
    lesson = prepare([ball_shot(seed) for seed in range(shots)], model, model, PAPER, silent)
    (examples,) = lesson.scales()
    return PublishedEpisodes(lesson, explore(lesson, examples))


def test_adapter_segments_the_same_after_saving_and_loading(model: PromptableModel, tmp_path: Path):
    adapter = adapt([ball_shot(0), ball_shot(1)], model, memory_model=memory_of(model), config=PAPER)
    adapter.save(tmp_path)

    volume, _ = ball_scan(5)
    before = segment(volume, adapter, model, memory_model=memory_of(model))
    after = segment(volume, Adapter.load(tmp_path), model, memory_model=memory_of(model))

    assert adapter.changes.tokens == 3
    assert (before.labels.data == after.labels.data).all()
    assert Adapter.load(tmp_path).sha256 == adapter.sha256


def test_model_is_itself_again_after_learning_and_segmenting(model: PromptableModel):
    state = {name: value.clone() for name, value in model.network.state_dict().items()}

    adapter = adapt([ball_shot(0), ball_shot(1)], model, memory_model=memory_of(model), config=PAPER)
    segment(ball_scan(5)[0], adapter, model, memory_model=memory_of(model))

    after = model.network.state_dict()
    assert state.keys() == after.keys()
    assert all(torch.equal(state[name], after[name]) for name in state)
    assert model.decode(model.encode(torch.rand(1, 3, SIDE, SIDE)), Prompts.empty(1)).logits.shape[1] == 1


def test_segment_takes_the_highest_class_of_one_softmax(model: PromptableModel):
    """By hand: the decoder once, without a box, and the highest of its C + 1 masks at each voxel."""
    config = replace(PAPER, prompts="none", steps=6)
    adapter = adapt([ball_shot(0), ball_shot(1)], model, memory_model=memory_of(model), config=config)
    volume = ball_scan(5)[0].slice(4)

    found = segment(volume, adapter, model, memory_model=memory_of(model)).labels.data[0]

    heard: list[torch.Tensor] = []
    with torch.no_grad(), adapter.attach(model):
        decoder = model.adaptable()["decoder"]
        plain = decoder.predict_masks
        decoder.predict_masks = lambda *args, **kwargs: heard.append(plain(*args, **kwargs)) or heard[-1]
        frames = Frames(volume, adapter.recipe)
        asked = Prompts.empty(1, dense=adapter.dense[:1], channel=torch.tensor([1]))
        model.decode(model.encode(frames.pixels(0, 1)), asked)
        decoder.predict_masks = plain
    masks = frames.placement.restore(heard[0][0].float())[0]
    lead = masks.topk(2, dim=0).values
    sure = ((lead[0] - lead[1]) > 1e-2).numpy()  # what is kept is half precision
    assert sure.mean() > 0.9
    # Masks are cut at ±10 before they are brought to voxels, which moves a steep border by a part of a pixel.
    assert (found == masks.argmax(dim=0).numpy())[sure].mean() > 0.98


def test_full_is_slices_alone_for_such_an_adapter():
    model = ToyModel()
    adapter = adapt([ball_shot(0), ball_shot(1)], model, config=PAPER)
    volume, _ = ball_scan(5)

    full = segment(volume, adapter, model)
    alone = segment(volume, adapter, model, plan=replace(Plan.of("slice"), tidies=False))

    assert (full.labels.data == alone.labels.data).all()
    assert full.seeds == {}


def test_sizes_are_those_of_the_public_code():
    # methods.md: 767,076 parameters outside the transformer where there are four tokens, as in SAM itself.
    model = MAKERS["sam1"]()

    with tuned(model, AdapterConfig.paper(), "decoder", tokens=4) as trained:
        counts = trained.counts

    assert counts["decoder LoRA"] == 23_552
    assert counts["mask decoder"] + counts["class tokens"] == 767_076
    assert counts["calibration"] == 1_089


def test_all_labels_share_one_prompt_and_no_picture_is_changed():
    adapter = adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=PAPER)

    assert adapter.record.trainable["prompts"] == 8
    assert torch.equal(adapter.dense[0], adapter.dense[1])
    assert adapter.recipe.zoom is None


def test_steps_are_a_hundred_epochs_of_half_the_shots(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    monkeypatch.setattr(PublishedEpisodes, "loss", lambda self, batch, dense: asked.append(batch) or dense.sum())
    monkeypatch.setattr(PublishedEpisodes, "score", lambda self, shots, dense: 0.0)

    adapter = adapt([ball_shot(s) for s in range(4)], ToyModel(), config=replace(PAPER, steps=None, bilevel="first"))

    assert adapter.config.steps == 200
    # Two levels of 200 steps; every shot is seen equally often, those of D2 as well as those of D1.
    assert [asked.count(shot) for shot in range(4)] == [100] * 4


def test_one_shot_is_both_halves():
    adapter = adapt([ball_shot(0)], ToyModel(), config=PAPER)

    assert adapter.changes.tokens == 3


def test_every_shot_has_its_turn_before_any_has_its_second():
    episodes = episodes_of(3)

    drawn = [episodes.draw([0, 1, 2]) for _ in range(9)]

    assert [sorted(drawn[i : i + 3]) for i in (0, 3, 6)] == [[0, 1, 2]] * 3


def test_values_of_the_best_epoch_are_kept(monkeypatch: pytest.MonkeyPatch):
    scores = iter([0.2, 0.9, 0.9, 0.1])
    seen: list[torch.Tensor] = []

    def score(self: PublishedEpisodes, shots: list[int], dense: torch.Tensor) -> float:
        seen.append(dense.detach().clone())
        return next(scores)

    monkeypatch.setattr(PublishedEpisodes, "score", score)

    adapter = adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=replace(PAPER, steps=4))

    assert torch.equal(adapter.dense[:1], seen[1])
    assert not torch.equal(adapter.dense[:1], seen[3])


def test_score_is_the_dice_of_the_labels_a_shot_shows(monkeypatch: pytest.MonkeyPatch):
    episodes = episodes_of(2)
    # Masks that are the truth of the first label and miss the second.
    truth = torch.stack([episodes._classes[0] == 1, torch.zeros_like(episodes._classes[0], dtype=torch.bool)])
    monkeypatch.setattr(episodes, "_logits", lambda shot, dense: 8.0 * truth[None] - 4.0)

    assert episodes.score([0], torch.zeros(1, 8)) == pytest.approx(0.5)


def test_tuning_is_never_undone(monkeypatch: pytest.MonkeyPatch):
    rivals: list[object] = []
    forecast = Forecast(tuned={1: 0.3, 2: 0.2}, plain={})
    monkeypatch.setattr(adaptation, "hold_out", lambda lesson, learn, plain, report: rivals.append(plain) or forecast)

    adapter = adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=replace(PAPER, forecast=True))

    assert rivals == [None]
    assert adapter.changes.tokens == 3
    assert adapter.record.forecast == {1: 0.3, 2: 0.2}


def test_tuning_the_encoder_is_refused():
    with pytest.raises(InputError, match="leave the encoder as it is"):
        adapt([ball_shot(0)], ToyModel(), config=replace(PAPER, tune="full"))


def test_class_logits_beside_zero_are_the_softmax_of_all_tokens():
    masks = torch.randn(1, 4, 5, 5)

    rows = [Decoded.of_channels(masks, torch.tensor([channel])).logits for channel in (1, 2, 3)]

    both = torch.cat([torch.zeros(1, 1, 5, 5), *rows], dim=1)
    assert torch.allclose(both.softmax(dim=1), masks.softmax(dim=1), atol=1e-6)


def test_class_logits_keep_their_order_where_they_are_cut():
    masks = torch.tensor([0.0, 30.0, 25.0, -40.0]).view(1, 4, 1, 1)

    rows = [float(Decoded.of_channels(masks, torch.tensor([c])).logits.clamp(-10, 10)) for c in (1, 2, 3)]

    assert rows == [10.0, 5.0, -10.0]


@pytest.mark.parametrize("name", ["sam1", "sam2"])
def test_plain_pixels_reach_the_encoder_as_they_are(name: str):
    model = MAKERS[name]()
    pixels = torch.rand(1, 3, SIDE, SIDE)
    standard = model.encode(pixels).features

    with at_side(model, SIDE, plain=True):
        plain = model.encode(pixels).features

    encoder = model.adaptable()["encoder"]
    with torch.no_grad():
        seen = encoder(pixels) if name == "sam1" else encoder(pixels)["backbone_fpn"][-1]
    assert torch.allclose(plain, seen, atol=1e-5)
    assert torch.equal(model.encode(pixels).features, standard)


def test_pictures_of_eight_bits_are_divided_by_255():
    shots = [picture_shot(seed) for seed in (0, 1)]

    adapter = adapt(shots, ToyModel(), config=PAPER)

    assert adapter.recipe.window == (0.0, 255.0)


def picture_shot(seed: int) -> Shot:
    """Return a picture of a bright square whose darkest pixel is 40 and whose brightest is 200."""
    geometry = Geometry((1, 48, 48), torch.eye(4, dtype=torch.float64).numpy(), "px")
    data = torch.full((1, 1, 48, 48), 40.0).numpy()
    labels = torch.zeros(1, 48, 48, dtype=torch.int32).numpy().astype("uint16")
    data[..., 10 + seed : 30, 10:30], labels[:, 10 + seed : 30, 10:30] = 200.0, 1
    volume = Volume(data, geometry, (40.0, 200.0))
    return Shot(volume, LabelMap(labels, geometry, {1: "square"}), lambda: volume, f"{seed}.png", f"{seed}")


def test_loss_is_the_published_one_by_hand():
    from amsam_cli.methods.losses import softmax_loss

    logits, classes = torch.randn(2, 2, 3, 3), torch.randint(3, (2, 3, 3))

    found = softmax_loss(logits, classes)

    p = torch.cat([torch.zeros(2, 1, 3, 3), logits], dim=1).softmax(dim=1)
    y = torch.stack([(classes == c).float() for c in range(3)], dim=1)
    dice = sum(
        1 - (2 * (p[:, t] * y[:, t]).sum() + 1e-5) / ((p[:, t] ** 2).sum() + y[:, t].sum() + 1e-5) for t in range(3)
    )
    entropy = F.nll_loss(p.log(), classes)
    assert float(found) == pytest.approx(float(0.2 * entropy + 0.8 * dice / 3), abs=1e-6)


@pytest.mark.slow
def test_sam_vit_b_from_a_file_goes_all_the_way(tmp_path: Path):
    path = tmp_path / "sam_vit_b.pth"
    torch.save(build_network(VITS["vit-b"], 1024).state_dict(), path)
    model = load(f"sam-vit-b={path}")
    config = replace(AdapterConfig.paper(), steps=2, forecast=False)

    adapter = adapt([ball_shot(0), ball_shot(1)], model, memory_model=ToyModel(), config=config)
    found = segment(ball_scan(5, depth=2)[0], adapter, model, memory_model=ToyModel())

    assert adapter.recipe.image_size == 256
    assert adapter.backbone.name == "sam-vit-b"
    assert found.labels.data.shape == (2, 48, 48)
