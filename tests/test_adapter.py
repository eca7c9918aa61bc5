from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from amsam_cli.adaptation import adapt
from amsam_cli.adapter import DECODER_TARGETS, Adapter, AdapterConfig, trainable_lora
from amsam_cli.errors import AdapterError
from amsam_cli.models.base import Prompts
from amsam_cli.models.builtin import build_network
from amsam_cli.models.sam2 import Sam2
from tests.scans import ball_shot
from tests.toy import ToyModel


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    shots = [ball_shot(0), ball_shot(1)]
    return adapt(shots, ToyModel(), config=AdapterConfig(steps=3, forecast=False))


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


def test_fresh_lora_changes_nothing_before_the_first_step():
    model = ToyModel()
    embedding = model.encode(torch.rand(2, 3, 64, 64))
    plain = model.decode(embedding, Prompts.empty(2)).logits

    with trainable_lora(model, rank=4):
        fresh = model.decode(embedding, Prompts.empty(2)).logits

    assert torch.equal(plain, fresh)


def test_lora_of_the_built_in_decoder_has_the_size_the_paper_implies():
    # Per block 2 x (128+128) self + 2 x 2 x (128+64) cross, twice, and one more cross attention; rank 4 (q and v).
    model = Sam2(build_network(), "builtin", 256)

    with trainable_lora(model, rank=4) as tuned:
        count = sum(p.numel() for p in tuned.parameters() if p.requires_grad)

    assert count == 11_776


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ("missing", r"No adapter in"),
        ("format", r"format 99, expected 1"),
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
        about.write_text('{"format": 1}')

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


def test_adapter_keeps_what_was_learned_of_zoomed_slices(tmp_path: Path):
    shots = [ball_shot(seed, margin=60) for seed in (0, 1)]
    adapter = adapt(shots, ToyModel(), config=AdapterConfig(steps=0, forecast=False))

    adapter.save(tmp_path)

    loaded = Adapter.load(tmp_path)
    assert loaded.sha256 == adapter.sha256
    assert loaded.zoomed is not None
    assert adapter.zoomed is not None
    assert torch.equal(loaded.zoomed.bank.maps, adapter.zoomed.bank.maps)
    assert loaded.zoomed.rules == adapter.zoomed.rules
    assert not torch.equal(loaded.zoomed.bank.maps, loaded.whole.bank.maps)
