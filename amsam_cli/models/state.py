"""Weights from a file into a network: all of them, or a refusal in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from amsam_cli.errors import WeightsError

SHOWN = 1
"""How many keys of each kind a refusal names: hundreds differ when the architecture does."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, on the CPU; nothing in the file is executed.

    `.safetensors`, or what `torch.save` wrote: a state dict, alone or under "model" as SAM 2 publishes it.

    Raises:
        WeightsError: the file is missing, damaged or holds something else than tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    # The readers' own words are no help: some speak of archives, one advises to execute what the file holds.
    except UnpicklingError as err:
        raise _unreadable(path, "it is no checkpoint, or holds more than tensors") from err
    except (EOFError, RuntimeError, SafetensorError) as err:
        raise _unreadable(path, "it is empty, cut short or damaged") from err
    except OSError as err:
        raise _unreadable(path, str(err.strerror)) from err
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise _unreadable(path, "it holds no tensors by name")
    return content


def fill(network: nn.Module, state: Mapping[str, Tensor], *, name: str, path: Path) -> None:
    """Put every tensor of `state` into `network`, the model called `name`.

    Raises:
        WeightsError: a weight is missing, unknown or of another shape; the network is left as it was.
    """
    wanted = network.state_dict()
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [
        _count(sorted(wanted.keys() - state.keys()), "missing"),
        _count(sorted(state.keys() - wanted.keys()), "unknown"),
        _count(reshaped, "of another shape"),
    ]
    found = "; ".join(problem for problem in problems if problem)
    if found:
        looks_like = recognise(state)
        raise WeightsError(
            f"Checkpoint '{path}' does not fit {name}: {found}.",
            f"its weights look like those of {looks_like}; try --model {looks_like}={path}."
            if looks_like and looks_like != name
            else f"give a checkpoint of {name} as published; amsam models list shows the sources.",
        )
    network.load_state_dict(state, strict=True)


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of the model a state dict seems to be of, None if it resembles none."""
    if "image_encoder.trunk.stem.0.weight" in state:
        return "builtin"
    if "image_encoder.trunk.pos_embed" in state:
        width = state["image_encoder.trunk.pos_embed"].shape[1]
        small = "sam2.1-small" if "image_encoder.trunk.blocks.15.norm1.weight" in state else "sam2.1-tiny"
        return {96: small, 112: "sam2.1-base-plus", 144: "sam2.1-large"}.get(width)
    if "image_encoder.pos_embed" in state:
        width = state["image_encoder.pos_embed"].shape[-1]
        return {768: "sam-vit-b", 1024: "sam-vit-l", 1280: "sam-vit-h"}.get(width)
    return None


def _count(keys: Sequence[str], what: str) -> str:
    """Return "5 weights are missing (a, b, c, …)", or "" for none."""
    if not keys:
        return ""
    shown = ", ".join(keys[:SHOWN]) + (", …" if len(keys) > SHOWN else "")
    return f"{len(keys)} {'weight is' if len(keys) == 1 else 'weights are'} {what} ({shown})"


def _unreadable(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"Checkpoint '{path}' cannot be read: {reason}.",
        "it must be a .safetensors file or a PyTorch state dict (.pt, .pth); download it again if it should be one.",
    )
