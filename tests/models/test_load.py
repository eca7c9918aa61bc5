"""Names, files and devices to models; the files are written by the packages' own builders, with random weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from amsam_cli import models
from amsam_cli.errors import InputError, WeightsError
from amsam_cli.models import builtin, choose_device, load, sam2, untrained
from amsam_cli.models.base import MemoryModel, PromptableModel, Prompts
from amsam_cli.models.sam1 import VITS, Sam1, build_network
from amsam_cli.models.sam2 import Sam2
from amsam_cli.models.state import fill, read_state, recognise
from amsam_cli.weights import CHECKPOINTS, find_checkpoint, location
from tests.toy import disc_frames

SIDE = 128


def logits(model: PromptableModel) -> torch.Tensor:
    embedding = model.encode(disc_frames(1, image_size=model.image_size)[0])
    return model.decode(embedding, Prompts.empty(1)).logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> tuple[Path, torch.nn.Module]:
    """A SAM 2.1 tiny checkpoint as Meta publishes them, and the network it was written from."""
    network = sam2.build_network("sam2.1-tiny")
    path = folder / "tiny.pt"
    torch.save({"model": network.state_dict()}, path)
    return path, network


@pytest.fixture(scope="module")
def small_builtin(folder: Path) -> tuple[Path, torch.nn.Module]:
    network = builtin.build_network()
    path = folder / "builtin.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return path, network


@pytest.mark.parametrize("name", ["sam2.1-tiny", "medsam2"])
def test_load_gives_the_logits_that_were_saved_when_sam2(tiny, name):
    path, network = tiny

    loaded = load(f"{name}={path}", image_size=SIDE)

    assert isinstance(loaded, MemoryModel)
    assert loaded.name == name
    assert torch.equal(logits(loaded), logits(Sam2(network, name, SIDE)))


def test_load_gives_the_logits_that_were_saved_when_builtin(small_builtin):
    path, network = small_builtin

    loaded = load(f"builtin={path}", image_size=SIDE)

    assert torch.equal(logits(loaded), logits(Sam2(network, "builtin", SIDE)))


@pytest.mark.skipif(not location(CHECKPOINTS["builtin"]).is_file(), reason="the built-in weights are not trained yet")
def test_load_finds_the_builtin_weights_in_the_package():
    assert logits(load("builtin")).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam-vit-b", "medsam"])
def test_load_gives_the_logits_that_were_saved_when_sam1(folder, name):
    network = build_network(VITS["vit-b"], SIDE, unit_pixels=name == "medsam")
    path = folder / "sam.pth"
    torch.save(network.state_dict(), path)

    loaded = load(f"{name}={path}", image_size=SIDE)

    assert not isinstance(loaded, MemoryModel)
    assert torch.equal(logits(loaded), logits(Sam1(network, name)))


@pytest.mark.slow
def test_load_takes_the_official_file_at_another_side(folder):
    from segment_anything import sam_model_registry

    path = folder / "official.pth"
    torch.save(sam_model_registry["vit_b"]().state_dict(), path)

    loaded = load(f"sam-vit-b={path}")

    assert loaded.image_size == 256
    assert logits(loaded).shape == (1, 1, 64, 64)


def test_load_uses_the_side_of_the_registry(tiny):
    assert load(f"medsam2={tiny[0]}").image_size == CHECKPOINTS["medsam2"].image_size == 512


def test_load_takes_half_precision_files(folder, small_builtin):
    path = folder / "half.safetensors"
    save_file({key: value.half() for key, value in load_file(small_builtin[0]).items()}, path)

    weights = load(f"builtin={path}").network.state_dict()

    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}


def test_load_refuses_another_size_and_names_the_right_model(tiny):
    with pytest.raises(WeightsError, match=r"does not fit sam2\.1-small: \d+ weights are missing \(") as caught:
        load(f"sam2.1-small={tiny[0]}")

    assert f"try --model sam2.1-tiny={tiny[0]}" in caught.value.hint


def test_load_refuses_another_family_and_names_the_right_model(small_builtin):
    with pytest.raises(WeightsError, match=r"'.*' does not fit medsam2: .* missing .*; .* unknown .*") as caught:
        load(f"medsam2={small_builtin[0]}")

    assert "look like those of builtin" in caught.value.hint


def test_load_says_which_weight_has_another_shape(folder, small_builtin):
    path = folder / "wide.safetensors"
    state = {**load_file(small_builtin[0]), "no_mem_embed": torch.zeros(1, 1, 7)}
    save_file(state, path)

    with pytest.raises(WeightsError, match=r"1 weight is of another shape \(no_mem_embed \(1, 1, 7\) instead of \(1,"):
        load(f"builtin={path}")


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.pt", b""), ("page.pt", b"<html>log in</html>"), ("text.safetensors", b"not weights at all")],
)
def test_load_refuses_a_file_that_is_no_checkpoint(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(WeightsError, match=f"{name}' cannot be read"):
        load(f"builtin={path}")


def test_load_refuses_a_truncated_checkpoint(tmp_path, tiny):
    path = tmp_path / "cut.pt"
    path.write_bytes(tiny[0].read_bytes()[:100_000])

    with pytest.raises(WeightsError, match="cannot be read"):
        load(f"sam2.1-tiny={path}")


def test_load_executes_nothing_in_a_file(tmp_path):
    path = tmp_path / "pickle.pt"
    torch.save({"model": Path("anything")}, path)

    with pytest.raises(WeightsError, match=r"it is no checkpoint, or holds more than tensors\.$"):
        load(f"sam2.1-tiny={path}")


def test_load_refuses_tensors_without_names(tmp_path):
    path = tmp_path / "list.pt"
    torch.save([torch.zeros(1)], path)

    with pytest.raises(WeightsError, match="holds no tensors by name"):
        load(f"sam2.1-tiny={path}")


@pytest.mark.parametrize("side", [0, -32, 100, 250])
def test_load_refuses_a_side_that_does_not_fit(side):
    with pytest.raises(InputError, match=f"side of {side} px does not fit builtin"):
        load("builtin", image_size=side)


def test_load_refuses_an_unknown_device_before_anything_else(tiny):
    with pytest.raises(InputError, match="Device 'gpu' is none of auto, cpu"):
        load(f"sam2.1-tiny={tiny[0]}", "gpu")


def test_choose_device_is_the_one_named():
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("cuda", "expected"), [(0, "cpu"), (2, "cuda")])
def test_choose_device_takes_the_best_when_auto(monkeypatch, cuda, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    assert choose_device("auto") == torch.device(expected)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_choose_device_never_takes_another(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    with pytest.raises(InputError, match=f"Device '{name}' is not on this machine, which has cpu"):
        choose_device(name)


def test_choose_device_counts_the_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="'cuda:2' is not on this machine"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "tpu:0"])
def test_choose_device_refuses_nonsense(name):
    with pytest.raises(InputError, match="is none of auto, cpu, cuda, cuda:N and mps"):
        choose_device(name)


def test_fill_leaves_the_network_as_it_was_when_it_refuses(small_builtin):
    network = builtin.build_network()
    before = {key: value.clone() for key, value in network.state_dict().items()}

    with pytest.raises(WeightsError):
        fill(network, {"no_mem_embed": torch.ones(1, 1, 128)}, name="builtin", path=Path("x.pt"))

    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    "name",
    [
        "sam2.1-tiny",
        "sam2.1-small",
        pytest.param("sam2.1-base-plus", marks=pytest.mark.slow),
        pytest.param("sam2.1-large", marks=pytest.mark.slow),
    ],
)
def test_recognise_tells_the_sizes_of_sam2_apart(name):
    state = sam2.build_network(name).state_dict()

    assert recognise(state) == name


def test_recognise_knows_nothing_of_other_weights():
    assert recognise({"conv.weight": torch.zeros(1)}) is None


def test_read_state_reads_a_bare_state_dict(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "bare.pth")

    assert read_state(tmp_path / "bare.pth")["a"].tolist() == [1, 1]


def test_importing_models_loads_no_torch():
    code = f"import sys; import {models.__name__}; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "kind", "side"), [("builtin", Sam2, 256), ("sam2.1-tiny", Sam2, 512), ("sam-vit-b", Sam1, 256)]
)
def test_untrained_model_is_the_registrys_in_all_but_weights(name, kind, side):
    model = untrained(find_checkpoint(name), torch.device("cpu"), side)

    assert isinstance(model, kind)
    assert (model.name, model.image_size) == (name, side)
