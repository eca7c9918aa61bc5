"""One batch over a Ray cluster: a task for each case, wherever there is room.

Knows how to start and ask Ray; what is done with a case, `batch` knows. All machines of a cluster must see the same
files under the same paths.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from amsam_cli.adapter import Adapter
from amsam_cli.batch import Destination, Engine, Options, Outcome, run
from amsam_cli.errors import AmsamError, InputError, ResourceError
from amsam_cli.io import Case
from amsam_cli.models.base import OnStep, silent

LOCAL = "local"
"""The address that starts a cluster here, for the time of the batch."""


@dataclass(frozen=True, slots=True)
class EngineAt:
    """Where an engine is to be loaded from, in whichever process needs it; see `Engine.load`."""

    folder: Path
    device: str = "auto"
    model: str | None = None
    memory_model: str | None = None


def run_on_ray(
    cases: Sequence[Case],
    engine: EngineAt,
    destination: Destination,
    options: Options,
    *,
    address: str = LOCAL,
    on_step: OnStep | None = None,
) -> Iterator[Outcome]:
    """Segment cases on a Ray cluster and yield what became of each, the first one done first.

    A case takes one processor core, and a GPU where the cluster has any. One that fails, or whose process dies, is
    reported like any other.

    Raises:
        AdapterError: no adapter there, or a damaged one.
        InputError: Ray is not installed, or there is no cluster at the address.
        ResourceError: Ray did not start here.
    """
    report = on_step or silent
    Adapter.load(engine.folder)  # what cannot be used is said before a cluster is asked
    with _connected(address) as ray:
        has_gpu = engine.device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1
        task = ray.remote(num_cpus=1, num_gpus=int(has_gpu), max_retries=0)(_segment_there)
        there = replace(engine, folder=engine.folder.resolve())
        out = replace(destination, path=destination.path.resolve())
        waiting = {task.remote(replace(case, path=case.path.resolve()), there, out, options): case for case in cases}
        report("cases", 0, len(cases))
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            case = waiting.pop(ready)
            yield _named_like(case, destination, _gathered(ray, ready, case))
            report("cases", len(cases) - len(waiting), len(cases))


def _segment_there(case: Case, engine: EngineAt, destination: Destination, options: Options) -> Outcome:
    """Return the outcome of one case; runs in a process of the cluster."""
    try:
        loaded = _loaded(engine)
    except AmsamError as err:  # such as weights that this machine lacks
        return Outcome(case, "failed", error=err)
    return next(run([case], loaded, destination, options))


@cache
def _loaded(engine: EngineAt) -> Engine:
    """Return an engine, loaded once in each process."""
    return Engine.load(engine.folder, device=engine.device, model=engine.model, memory_model=engine.memory_model)


def _gathered(ray: Any, ready: Any, case: Case) -> Outcome:
    try:
        outcome: Outcome = ray.get(ready)
    except ray.exceptions.RayError as err:  # the process died, of memory most of the time
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        lost = ResourceError(
            f"'{case.path.name}' was lost with its process on the cluster: {reason}",
            "Run it again, with fewer cores in the cluster, or with --max-memory.",
        )
        return Outcome(case, "failed", error=lost)
    return outcome


def _named_like(case: Case, destination: Destination, outcome: Outcome) -> Outcome:
    """Return an outcome with the paths that the user knows, not those of the cluster."""
    mask = outcome.mask and (destination.path / outcome.mask.name if destination.is_folder else destination.path)
    return replace(outcome, case=case, mask=mask)


def _unreachable(address: str, err: Exception) -> AmsamError:
    """Return what to tell the user where Ray did not answer, or did not start."""
    reason = (str(err).splitlines() or [type(err).__name__])[0]
    if address == LOCAL:
        hint = "Run it again, or segment without --ray: --num-parts splits a folder too."
        return ResourceError(f"Ray did not start on this machine: {reason}", hint)
    hint = "Start one with ray start --head, or use --ray local."
    return InputError(f"There is no Ray cluster at '{address}': {reason}", hint)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Give the module `ray`, connected to a cluster; one that was started here ends with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # amsam sends nothing anywhere, and Ray would
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what it warns of matters with GPUs only
    try:
        import ray
    except ModuleNotFoundError as err:
        raise InputError("--ray needs the package ray.", "pip install 'amsam[ray]'") from err
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address=address, include_dashboard=False if address == LOCAL else None, **quiet)
    except Exception as err:  # Ray has no class of its own for a node that did not start in time
        raise _unreachable(address, err) from err
    try:
        yield ray
    finally:
        ray.shutdown()
