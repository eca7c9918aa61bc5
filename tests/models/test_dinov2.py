from __future__ import annotations

import pytest
import torch

from amsam_cli.adaptation import adapt
from amsam_cli.adapter import Adapter, AdapterConfig
from amsam_cli.errors import AdapterError, WeightsError
from amsam_cli.models import dinov2
from amsam_cli.models.dinov2 import Dinov2, load_reader
from amsam_cli.segmentation import Plan, segment
from tests.scans import ball_scan, ball_shot
from tests.toy import ToyModel

transformers = pytest.importorskip("transformers")


def small(seed: int = 0) -> Dinov2:
    """A DINOv2 of one layer with random weights, for frames of 56 px: a grid of 4 x 4."""
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Dinov2(transformers.Dinov2Model(config), image_size=56)


def test_features_are_the_patch_tokens_in_their_places():
    reader = small()
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels[1, :, :16, 48:] = 1.0  # the upper right corner differs
    pixels[0] = pixels[1]
    pixels[1, :, :16, 48:] = 0.0

    found = reader.encode(pixels).features

    assert found.shape == (2, 16, 4, 4)
    change = (found[0] - found[1]).norm(dim=0)
    assert change.argmax() == 3


def test_reader_is_read_from_a_folder_and_never_from_the_network(tmp_path):
    small().network.save_pretrained(tmp_path / "saved")

    loaded = load_reader(source=str(tmp_path / "saved"), image_size=56)

    state = small().network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.network.state_dict().items())


def test_missing_weights_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match="not in the cache") as caught:
        load_reader(source=str(tmp_path / "nothing"))

    assert "hf download" in caught.value.hint


def test_adapter_records_what_read_its_priors_and_refuses_another(monkeypatch, tmp_path):
    config = AdapterConfig(steps=0, tune="lora", prior="cosine", features="dinov2", forecast=False)
    monkeypatch.setattr(dinov2, "load_reader", lambda device: small())
    model, (volume, _) = ToyModel(), ball_scan(7)
    adapt([ball_shot(0), ball_shot(1)], model, config=config).save(tmp_path)

    adapter = Adapter.load(tmp_path)
    found = segment(volume, adapter, model, plan=Plan.of("fssam"))
    monkeypatch.setattr(dinov2, "load_reader", lambda device: small(seed=1))

    assert adapter.reader.name == "facebook/dinov2-base"
    assert adapter.whole.bank.prototypes.foreground.shape[-1] == 16
    assert found.labels.data.shape == volume.geometry.shape
    with pytest.raises(AdapterError, match="facebook/dinov2-base at 56 px"):
        segment(volume, adapter, model, plan=Plan.of("fssam"))
