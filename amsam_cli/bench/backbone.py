"""What methods built on one of amsam's models share: which one, where it runs, and which weights it had."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from amsam_cli import models
from amsam_cli.models.base import PromptableModel
from amsam_cli.report import sha256_of
from amsam_cli.weights import ensure, parse_model


@dataclass(frozen=True, eq=False, kw_only=True)
class OnOurModel:
    """A method on a frozen or tuned model of amsam's.

    Attributes:
        model: as `amsam adapt --model` takes it.
        device: where it runs.
    """

    model: str = "builtin"
    device: str = "cpu"

    @property
    def model_name(self) -> str:
        """The model's name, without the file of its weights."""
        return parse_model(self.model)[0]

    @cached_property
    def weights(self) -> str:
        """The start of the hash of its weights: other weights, other results."""
        name, given = parse_model(self.model)
        return sha256_of(given or ensure(name))[:8]

    @cached_property
    def loaded(self) -> PromptableModel:
        """The model, loaded once."""
        return models.load(self.model, self.device)
