from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from amsam_cli.adaptation import adapt
from amsam_cli.adapter import Adapter, AdapterConfig, Tune
from amsam_cli.adapter.changes import DECODER_TARGETS, tuned
from amsam_cli.errors import AdapterError
from amsam_cli.models.base import PromptableModel, Prompts
from amsam_cli.models.builtin import build_network
from amsam_cli.models.sam1 import Sam1, Vit
from amsam_cli.models.sam1 import build_network as sam1_network
from amsam_cli.models.sam2 import Sam2
from tests.scans import ball_shot
from tests.toy import ToyModel

TINY_VIT = Vit(width=32, depth=1, heads=2, global_blocks=(0,))


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    shots = [ball_shot(0), ball_shot(1)]
    return adapt(shots, ToyModel(), config=AdapterConfig(steps=3, forecast=False, tune="decoder"))


@torch.no_grad()
def answer(model: PromptableModel) -> torch.Tensor:
    """Return what a model says of two random frames."""
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return model.decode(model.encode(pixels), Prompts.empty(2)).logits


def test_adapter_is_the_same_after_saving_and_loading(adapter: Adapter, tmp_path: Path):
    adapter.save(tmp_path)

    loaded = Adapter.load(tmp_path)

    assert loaded.sha256 == adapter.sha256
    assert loaded.labels == {1: "ball", 2: "other"}
    assert loaded.recipe == adapter.recipe
    assert loaded.record == adapter.record


def test_adapter_folder_holds_neither_pixels_nor_pickles(adapter: Adapter, tmp_path: Path):
    adapter.save(tmp_path)

    names = {path.name for path in tmp_path.iterdir()}

    assert names - {"README.md"} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "amsam.json",
        "changes.safetensors",
        "memories.safetensors",
        "run.json",
    }


def test_adapter_folder_is_read_by_peft_itself(adapter: Adapter, tmp_path: Path):
    adapter.save(tmp_path)

    tuned = PeftModel.from_pretrained(ToyModel().network, str(tmp_path))

    state = {name: value for name, value in tuned.state_dict().items() if "lora_B" in name}
    assert state
    assert any(value.abs().max() > 0 for value in state.values())


def test_attach_leaves_the_base_model_as_it_was(adapter: Adapter):
    model = ToyModel()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}

    with adapter.attach(model):
        changed = {name for name in model.network.state_dict() if "lora" in name}

    after = model.network.state_dict()
    assert changed
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_attach_changes_what_the_decoder_says(adapter: Adapter):
    model = ToyModel()
    embedding = model.encode(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    plain = model.decode(embedding, Prompts.empty(1)).logits

    with adapter.attach(model):
        tuned = model.decode(embedding, Prompts.empty(1)).logits

    assert not torch.equal(plain, tuned)


def test_attach_refuses_another_model(adapter: Adapter):
    with pytest.raises(AdapterError, match="made for toy at 64 px"), adapter.attach(ToyModel(image_size=128)):
        pass


def test_attach_refuses_the_same_model_with_other_weights(adapter: Adapter):
    with pytest.raises(AdapterError, match="weights"), adapter.attach(ToyModel(seed=1)):
        pass


def test_adapter_files_can_be_read_by_others(adapter: Adapter, tmp_path: Path):
    adapter.save(tmp_path)

    assert all(path.stat().st_mode & 0o044 == 0o044 for path in tmp_path.iterdir())


@pytest.mark.parametrize("tune", ["lora", "decoder", "encoder", "full"])
def test_nothing_changes_before_the_first_step(tune: Tune):
    model = ToyModel()
    plain = answer(model)

    with tuned(model, AdapterConfig(), tune):
        fresh = answer(model)

    # Not bit for bit: with several threads, sums depend on where in memory the weights lie.
    torch.testing.assert_close(fresh, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tune", ["lora", "decoder", "encoder", "full"])
def test_model_is_itself_again_after_every_kind_of_tuning(tune: Tune):
    model = ToyModel()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}

    with tuned(model, AdapterConfig(), tune) as trained, torch.no_grad():
        for parameter in trained.parameters:
            parameter.add_(0.3)

    after = model.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


@pytest.mark.parametrize("tune", ["lora", "decoder", "encoder", "full"])
def test_adapter_answers_the_same_after_saving_and_loading(tune: Tune, tmp_path: Path):
    config = AdapterConfig(steps=2, forecast=False, tune=tune)
    adapter = adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=config)
    model = ToyModel()
    adapter.save(tmp_path)

    with adapter.attach(model):
        before = answer(model)
    with Adapter.load(tmp_path).attach(model):
        after = answer(model)

    assert torch.equal(before, after)


def test_whole_weights_are_kept_as_half_precision_differences():
    config = AdapterConfig(steps=2, forecast=False, tune="full")

    adapter = adapt([ball_shot(0), ball_shot(1)], ToyModel(), config=config)

    assert adapter.changes.weights.keys() == dict(ToyModel().network.named_parameters()).keys()
    assert {tensor.dtype for tensor in adapter.changes.weights.values()} == {torch.float16}
    assert not adapter.changes.lora


@pytest.mark.parametrize(("width", "count"), [(128, 11_776), (256, 23_552)])
def test_lora_has_the_size_the_paper_implies(width: int, count: int):
    # With c the width, self attention maps c to c and cross attention c to c/2. Rank 4 on q and v of two layers of
    # one self and two cross attentions and of a last cross attention: 4 (2 x 2 x 2c + 5 x 2 x 1.5c) = 92c.
    model = Sam2(build_network(), "builtin", 64) if width == 128 else Sam1(sam1_network(TINY_VIT, 64), "sam1")

    with tuned(model, AdapterConfig(calibration="off"), "lora") as trained:
        counts = trained.counts

    assert counts == {"decoder LoRA": count}
    assert count == 92 * width


def test_decoder_tuning_trains_all_of_sams_decoder_but_its_transformer():
    # methods.md counts 767,076 in SAM's decoder, outside the transformer.
    model = Sam1(sam1_network(TINY_VIT, 64), "sam1")

    with tuned(model, AdapterConfig(), "decoder") as trained:
        counts = trained.counts

    assert counts == {"decoder LoRA": 23_552, "mask decoder": 767_076, "calibration": 1_089}


def test_encoder_tuning_places_lora_in_linear_and_convolutional_layers():
    for model in (Sam2(build_network(), "builtin", 64), Sam1(sam1_network(TINY_VIT, 64), "sam1")):
        with tuned(model, AdapterConfig(), "encoder") as trained:
            assert trained.counts["encoder LoRA"] > 0


def test_episodes_place_lora_where_memory_attention_asks_memories():
    model = Sam2(build_network(), "builtin", 64)

    with tuned(model, AdapterConfig(calibration="off", episodes=True), "lora") as trained:
        counts = trained.counts

    # Rank 4 on q and out (128 to 128) and k and v (32 to 128) of two layers.
    assert counts == {"decoder LoRA": 11_776, "memory LoRA": 2 * 4 * (2 * 256 + 2 * 160)}


def test_shots_too_few_to_find_one_from_the_others_leave_memory_attention_alone():
    config = AdapterConfig(steps=1, tune="lora", episodes=True, forecast=False)

    two, three = (adapt([ball_shot(seed) for seed in range(count)], ToyModel(), config=config) for count in (2, 3))

    assert (two.config.episodes, three.config.episodes) == (False, True)
    assert "memory LoRA" not in two.record.trainable
    assert three.record.trainable["memory LoRA"] > 0


def test_lora_without_a_layer_to_sit_on_is_refused():
    class Bare(ToyModel):
        def adaptable(self) -> Mapping[str, nn.Module]:
            return {**super().adaptable(), "encoder": nn.Identity()}

    with pytest.raises(AdapterError, match="no layer in the image encoder"), tuned(Bare(), AdapterConfig(), "encoder"):
        pass


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ("missing", r"No adapter in"),
        ("format", r"format 99, and this version reads 3"),
        ("truncated", r"cannot be read"),
        ("foreign", r"cannot be read"),
    ],
)
def test_load_refuses_a_folder_it_cannot_trust(adapter: Adapter, tmp_path: Path, damage: str, match: str):
    adapter.save(tmp_path)
    about = tmp_path / "amsam.json"
    if damage == "missing":
        about.unlink()
    elif damage == "format":
        about.write_text(json.dumps({**json.loads(about.read_text()), "format": 99}))
    elif damage == "truncated":
        weights = tmp_path / "memories.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        about.write_text('{"format": 3}')

    with pytest.raises(AdapterError, match=match) as caught:
        Adapter.load(tmp_path)

    assert caught.value.hint


def test_hash_ignores_timings_but_not_weights(adapter: Adapter):
    slower = replace(adapter, record=replace(adapter.record, seconds={"adapt": 99.0}))
    other = replace(adapter, dense=adapter.dense + 1)

    assert slower.sha256 == adapter.sha256
    assert other.sha256 != adapter.sha256


def test_targets_match_the_decoder_and_nothing_else():
    import re

    names = [name for name, _ in build_network().named_modules() if re.fullmatch(DECODER_TARGETS, name)]

    assert len(names) == 14
    assert all(name.startswith("sam_mask_decoder.transformer.") for name in names)


@pytest.mark.parametrize(("margin", "tune"), [(60, "lora"), (8, "full")])
def test_adapter_keeps_what_was_learned_of_the_closer_look(margin: int, tune: Tune, tmp_path: Path):
    shots = [ball_shot(seed, margin=margin) for seed in (0, 1)]
    adapter = adapt(shots, ToyModel(), config=AdapterConfig(steps=0, forecast=False, tune=tune))

    adapter.save(tmp_path)

    loaded = Adapter.load(tmp_path)
    assert loaded.sha256 == adapter.sha256
    assert loaded.recipe == adapter.recipe
    assert loaded.zoomed is not None
    assert adapter.zoomed is not None
    assert torch.equal(loaded.zoomed.bank.maps, adapter.zoomed.bank.maps)
    assert loaded.zoomed.rules == adapter.zoomed.rules
    assert (loaded.whole.shapes, loaded.whole.together) == (adapter.whole.shapes, adapter.whole.together)
    assert adapter.whole.shapes
    assert not torch.equal(loaded.zoomed.bank.maps, loaded.whole.bank.maps)
