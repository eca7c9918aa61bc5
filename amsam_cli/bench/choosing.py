"""Which slices a person would have been asked for: drawn by chance, chosen from the labels, or suggested by an adapter.

All come from the scans of one draw, so that what differs is the choice alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from amsam_cli.adaptation import adapt, choose
from amsam_cli.adapter import AdapterConfig
from amsam_cli.bench.cases import Cases
from amsam_cli.models.base import PromptableModel
from amsam_cli.suggest import suggest_slices

Choice = Literal["drawn", "medoids", "suggested"]
"""By name of the rule: results of another rule must not pass for those of this one."""


@runtime_checkable
class Choosing(Protocol):
    """A method that may ask for other slices of the scans it was given."""

    def slices(self, there: Cases, drawn: Sequence[str]) -> Sequence[str]:
        """Return as many annotated slices of the same scans as were drawn."""


def chosen_slices(there: Cases, drawn: Sequence[str]) -> list[str]:
    """Return as many slices of the same scans as were drawn: those that `amsam adapt --shots` takes."""
    return [candidate.origin for candidate in choose(there.candidates(drawn), len(drawn))]


def suggested_slices(there: Cases, drawn: Sequence[str], model: PromptableModel) -> list[str]:
    """Return half of the slices as drawn, and the other half as `amsam suggest` names them after a look at the first.

    What it names without a label cannot be learned from and is left out; the rest of the draw makes up for it.
    """
    first = list(drawn[: (len(drawn) + 1) // 2])
    annotated = {candidate.origin for candidate in there.candidates(drawn)} - set(first)
    adapter = adapt(there.shots(first), model, config=AdapterConfig(steps=0, forecast=False))
    found = [
        suggestion
        for name in dict.fromkeys(origin.rpartition(":")[0] or origin for origin in drawn)
        for suggestion in suggest_slices(there.query(name).volume, adapter, model, count=len(drawn))
        if suggestion.origin in annotated
    ]
    found = sorted(found, key=lambda each: (-each.doubt, each.origin))
    wanted = [*first, *(each.origin for each in found), *drawn]
    return list(dict.fromkeys(wanted))[: len(drawn)]
