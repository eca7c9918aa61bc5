"""The models every contract test runs on; weights are random, so only behaviour is tested."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from amsam_cli.models import builtin, sam2
from amsam_cli.models.base import MemoryModel, PromptableModel
from amsam_cli.models.sam1 import VITS, Sam1, Vit, build_network
from amsam_cli.models.sam2 import Sam2
from tests.toy import ToyModel

TINY_VIT = Vit(width=32, depth=2, heads=2, global_blocks=(1,))

MAKERS: dict[str, Callable[[], PromptableModel]] = {
    "toy": ToyModel,
    "builtin": lambda: Sam2(builtin.build_network(), "builtin", 128),
    "sam1": lambda: Sam1(build_network(TINY_VIT, 128), "sam1"),
    "sam2.1-tiny": lambda: Sam2(sam2.build_network("sam2.1-tiny"), "sam2.1-tiny", 256),
    "sam-vit-b": lambda: Sam1(build_network(VITS["vit-b"], 256), "sam-vit-b"),
}
SLOW = {"sam-vit-b"}
WITHOUT_MEMORY = {"sam1", "sam-vit-b"}


def _parameters(names: list[str]) -> list[object]:
    return [pytest.param(name, id=name, marks=pytest.mark.slow if name in SLOW else ()) for name in names]


@pytest.fixture(scope="session")
def made() -> dict[str, PromptableModel]:
    """The models made so far in this session."""
    return {}


def _make(name: str, made: dict[str, PromptableModel]) -> PromptableModel:
    if name not in made:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made[name] = MAKERS[name]()
    return made[name]


@pytest.fixture(params=_parameters(list(MAKERS)))
def model(request: pytest.FixtureRequest, made: dict[str, PromptableModel]) -> PromptableModel:
    return _make(request.param, made)


@pytest.fixture(params=_parameters([name for name in MAKERS if name not in WITHOUT_MEMORY]))
def memory_model(request: pytest.FixtureRequest, made: dict[str, PromptableModel]) -> MemoryModel:
    made_model = _make(request.param, made)
    assert isinstance(made_model, MemoryModel)
    return made_model
