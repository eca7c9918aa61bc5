"""The training run of the built-in weights: curriculum, optimiser, checkpoints, validation, log.

One process trains, one more invents episodes. A run can be stopped at any time and resumed from its folder; a new run
can start from the weights of another.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from amsam_cli.models.builtin import build_network
from amsam_cli.models.sam2 import Sam2
from amsam_cli.pretrain.anatomy import invent
from amsam_cli.pretrain.objectives import ask
from amsam_cli.pretrain.sources import Library
from amsam_cli.pretrain.synthesis import Anatomies, Episodes, Plan, render

log = logging.getLogger(__name__)

SUPPORTS = (1, 1, 2, 2, 3, 4, 4, 6)
LABELS = 12
MAPS, SCANS = 0.35, 0.2
"""Share of steps on real label maps with an invented look, and on real scans; the rest is invented altogether."""
EMA_DECAY = 0.998
VALIDATION_SEED = 1_000_000_007


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how large: a run first learns on small frames, then on full ones.

    Attributes:
        steps: optimiser steps of the whole run.
        small_until: share of the run on frames of `small` pixels; the rest has `large`.
        episodes: tasks per step at the small size; scaled down with the area at the large one, but not below 4.
        learning_rate: at the top of the ramp; falls along a cosine to a twentieth.
    """

    steps: int = 4000
    small_until: float = 0.6
    small: int = 128
    large: int = 256
    episodes: int = 16
    learning_rate: float = 8e-4
    warmup: int = 150
    seed: int = 0

    def plan(self, step: int) -> Plan:
        """Return what to draw at `step`."""
        dice = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        supports = SUPPORTS[int(torch.randint(len(SUPPORTS), (), generator=dice))]
        size = self.small if step < self.small_until * self.steps else self.large
        # Frames, not episodes, are what a step costs.
        budget = self.episodes * 5 * (self.small / size) ** 2
        episodes = max(4, round(budget / (supports + 2)))
        consecutive = bool(torch.rand((), generator=dice) < 0.35)
        return Plan(episodes, supports, 3 if consecutive else 2, size, consecutive)

    def rate(self, step: int) -> float:
        """Return the learning rate at `step`."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


class EpisodeStream(IterableDataset[Episodes]):
    """The endless stream of one run's episodes, from a step on; the same seed and step give the same batch."""

    def __init__(self, schedule: Schedule, start: int, library: Library | None = None) -> None:
        self.schedule = schedule
        self.start = start
        self.library = library

    def __iter__(self) -> Iterator[Episodes]:
        for step in range(self.start, self.schedule.steps):
            yield draw(self.schedule.plan(step), self.schedule.seed * 7_919 + step, self.library)


def draw(plan: Plan, seed: int, library: Library | None = None) -> Episodes:
    """Return one batch of episodes, all invented, or all of one kind of real anatomy."""
    generator = torch.Generator().manual_seed(seed)
    kind = float(torch.rand((), generator=generator))
    if library and library.maps and kind < MAPS:
        anatomies = library.draw(plan.episodes, generator, scans=False)
    elif library and library.scans and kind > 1 - SCANS:
        anatomies = library.draw(plan.episodes, generator, scans=True)
    else:
        anatomies = Anatomies(invent(plan.episodes, LABELS, generator))
    return render(anatomies, plan, generator)


@dataclass
class Run:
    """A training run in its folder: `state.pt` to resume, `weights.safetensors` to use, `log.jsonl` to read."""

    folder: Path
    schedule: Schedule
    model: Sam2
    average: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def start(cls, folder: Path, schedule: Schedule, *, device: str = "cpu", weights: Path | None = None) -> Run:
        """Return a new run, from random weights or from those of another run; or the one `folder` holds, resumed."""
        torch.manual_seed(schedule.seed)
        # Channels last: half the time of a backward pass on processors with bfloat16 matrix units.
        network = build_network().to(device, memory_format=torch.channels_last)
        if weights is not None:
            network.load_state_dict({k: v.float() for k, v in load_file(weights).items()}, strict=True)
        model = Sam2(network, "builtin", schedule.small)
        network.requires_grad_(True)
        average = deepcopy(network).requires_grad_(False)
        run = cls(folder, schedule, model, average, _optimiser(network))
        folder.mkdir(parents=True, exist_ok=True)
        if run._state.exists():
            run._resume()
        return run

    @property
    def _state(self) -> Path:
        return self.folder / "state.pt"

    def _resume(self) -> None:
        state = torch.load(self._state, map_location=self.model.device, weights_only=True)
        self.model.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]

    def save(self) -> None:
        """Write what is needed to resume, and the averaged weights in float16 as the package ships them."""
        state = {
            "network": self.model.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }
        part = self._state.with_suffix(".part")
        torch.save(state, part)
        part.replace(self._state)
        half = {name: value.half().contiguous() for name, value in self.average.state_dict().items()}
        (self.folder / "weights.part").write_bytes(save(half))
        (self.folder / "weights.part").replace(self.folder / "weights.safetensors")

    def advance(self, episodes: Episodes) -> dict[str, float]:
        """Take one optimiser step; return its loss and Dice by question."""
        generator = torch.Generator().manual_seed(self.schedule.seed * 104_729 + self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self.model.set_image_size(episodes.pixels.shape[-1])
        answers = ask(self.model, episodes, generator)
        self.optimiser.zero_grad(set_to_none=True)
        answers.loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.network.parameters(), 1.0)
        self.optimiser.step()
        self._track_average()
        self.step += 1
        return {"loss": answers.loss.item(), **answers.dice}

    def _track_average(self) -> None:
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.network.parameters()), 1 - decay)

    def validate(self) -> dict[str, float]:
        """Return the averaged network's Dice on fixed episodes no training step draws."""
        network = deepcopy(self.average)
        size = self.schedule.plan(self.step).image_size
        model = Sam2(network, "builtin", size)
        results: dict[str, list[float]] = {}
        for consecutive in (False, True):
            for part in range(3):
                plan = Plan(8, 4, 2, size, consecutive)
                seed = VALIDATION_SEED + 2 * part + consecutive
                with torch.no_grad():
                    answers = ask(model, draw(plan, seed), torch.Generator().manual_seed(seed))
                for name, value in answers.dice.items():
                    results.setdefault(f"val_{name}", []).append(value)
        return {name: sum(values) / len(values) for name, values in results.items()}


def pretrain(
    run: Run,
    *,
    library: Library | None = None,
    validate_every: int = 250,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> None:
    """Train until the schedule's end; log every 25 steps, save and validate every `validate_every`."""
    stream = EpisodeStream(run.schedule, run.step, library)
    loader = DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=4)
    recent: list[dict[str, float]] = []
    began = time.monotonic()
    for episodes in loader:
        recent.append(run.advance(_to_device(episodes, run.model.device)))
        if on_step:
            on_step(run.step, recent[-1])
        if run.step % 25 == 0:
            _log(run, {**_mean(recent), "seconds": round(time.monotonic() - began, 1)})
            recent.clear()
        if run.step % validate_every == 0 or run.step == run.schedule.steps:
            run.save()
            _log(run, run.validate())


def _to_device(episodes: Episodes, device: torch.device) -> Episodes:
    return Episodes(episodes.pixels.to(device), episodes.masks.to(device), episodes.supports, episodes.consecutive)


def _optimiser(network: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW that decays matrices and kernels, not biases, norms or embeddings."""
    decayed: list[Tensor] = [p for p in network.parameters() if p.ndim >= 2]
    free: list[Tensor] = [p for p in network.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over the rows that have it."""
    names = sorted({name for row in rows for name in row})
    columns = {name: [row[name] for row in rows if name in row and not math.isnan(row[name])] for name in names}
    return {name: round(sum(values) / len(values), 4) for name, values in columns.items() if values}


def _log(run: Run, figures: dict[str, float]) -> None:
    """Append one line of figures to the run's log."""
    if run.step <= 25:
        (run.folder / "schedule.json").write_text(json.dumps(asdict(run.schedule), indent=2))
    with (run.folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": run.step, **figures}) + "\n")
    log.info("step %d: %s", run.step, figures)
