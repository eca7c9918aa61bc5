"""A training run: curriculum, optimiser, checkpoints, validation, log.

One process trains, one more draws episodes. A run can be stopped at any time and resumed from its folder. What is drawn
and what is asked is a `Course`: amsam's own, or the published one.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from amsam_cli.errors import InputError
from amsam_cli.models.sam2 import Sam2
from amsam_cli.pretrain.anatomy import invent
from amsam_cli.pretrain.classes import Classes
from amsam_cli.pretrain.curve import write_curve
from amsam_cli.pretrain.objectives import Answers, ask
from amsam_cli.pretrain.optimiser import Optimisers, adamw, muon
from amsam_cli.pretrain.parts import Part
from amsam_cli.pretrain.published import LEARNING, ask_published
from amsam_cli.pretrain.sources import Library
from amsam_cli.pretrain.synthesis import Anatomies, Episodes, Plan, render

log = logging.getLogger(__name__)

SUPPORTS = (1, 1, 2, 2, 3, 4, 4, 6)
LABELS = 12
MAPS, SCANS = 0.35, 0.2
"""Share of steps on real label maps with an invented look, and on real scans; the rest is invented altogether."""
EMA_DECAY = 0.998
WEIGHTS = "weights.safetensors"
VALIDATION_SEED = 1_000_000_007
VALIDATION_BATCHES = 4


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how large: a run first learns on small frames, then on frames of several sizes.

    Attributes:
        steps: optimiser steps of the whole run.
        small_until: share of the run on frames of the smallest side only; none of it where weights are trained on.
        sides: frame sides in pixels, and the share of the steps after that.
        episodes: tasks per step on frames of 128 px with three supports; frames are what a step costs, so more
            supports mean fewer, and larger frames fewer still.
        learning_rate: at the top of the ramp.
        power: of the polynomial along which it falls to zero; None = along a cosine to a twentieth.
        supports: how many are shown, drawn from these.
        consecutive: share of the steps whose queries are neighbouring slices.
        keep: share of the weights a run began with in those it writes (Wortsman et al., Robust fine-tuning of zero-shot
            models, 2022): what was learned before is not lost to what was learned last.
        without: parts of the training that are left out; validation leaves none out.
    """

    steps: int = 4000
    small_until: float = 0.5
    sides: tuple[tuple[int, float], ...] = ((128, 0.7), (192, 0.15), (256, 0.15))
    episodes: int = 16
    learning_rate: float = 8e-4
    power: float | None = None
    warmup: int = 150
    supports: tuple[int, ...] = SUPPORTS
    consecutive: float = 0.3
    keep: float = 0.0
    seed: int = 0
    without: tuple[Part, ...] = ()

    def plan(self, step: int) -> Plan:
        """Return what to draw at `step`."""
        dice = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        supports = self.supports[int(torch.randint(len(self.supports), (), generator=dice))]
        sides, shares = zip(*self.sides, strict=True)
        drawn = sides[int(torch.multinomial(torch.tensor(shares), 1, generator=dice))]
        side = min(sides) if step < self.small_until * self.steps else drawn
        budget = self.episodes * 5 * (128 / side) ** 2
        episodes = max(2, round(budget / (supports + 2)))
        consecutive = bool(torch.rand((), generator=dice) < self.consecutive) and Part.SLICES not in self.without
        return Plan(episodes, supports, 3 if consecutive else 2, side, consecutive, self.without)

    def rate(self, step: int) -> float:
        """Return the learning rate at `step`."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        if self.power is not None:
            return self.learning_rate * math.pow(1 - done, self.power)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


Draw = Callable[[Plan, int], Episodes]
"""What to draw and a seed -> a batch of episodes."""
Ask = Callable[[Sam2, Episodes, torch.Generator], Answers]
"""A model and a batch of episodes -> how well it answered, with gradients."""


@dataclass(frozen=True, slots=True)
class Course:
    """What is drawn, what is asked, and what learns from it.

    Attributes:
        draw: episodes to learn from.
        validate: origin ("val", "val_real") -> episodes of subjects that are never learned from.
        ask: the questions.
        learning: beginnings of the names of the parameters that learn; "" = all of them.
        optimisers: what moves it.
    """

    draw: Draw
    validate: Mapping[str, Draw]
    ask: Ask = ask
    learning: tuple[str, ...] = ("",)
    optimisers: Optimisers = muon


def own_course(library: Library | None = None, held_out: Library | None = None) -> Course:
    """Return amsam's own training, on invented anatomies and perhaps real ones."""
    validate: dict[str, Draw] = {"val": draw}
    if held_out is not None:
        validate["val_real"] = partial(draw_real, library=held_out)
    return Course(partial(draw, library=library), validate)


def published_course(classes: Classes, held_out: Classes) -> Course:
    """Return FSSAM's training on base classes; amsam's own questions are not asked."""
    return Course(
        partial(draw_classes, classes=classes),
        {"val": partial(draw_classes, classes=held_out)},
        ask=ask_published,
        learning=LEARNING,
        optimisers=partial(adamw, decay=0.0),
    )


PUBLISHED = Schedule(
    sides=((512, 1.0),), episodes=2, learning_rate=1e-3, power=0.9, warmup=0, supports=(1,), consecutive=0.0
)
"""As published, for one GPU of the four: two episodes of one shot a step on 512 px, no ramp, polynomial of 0.9."""


class EpisodeStream(IterableDataset[Episodes]):
    """The endless stream of one run's episodes, from a step on; the same seed and step give the same batch."""

    def __init__(self, schedule: Schedule, start: int, draw: Draw) -> None:
        self.schedule = schedule
        self.start = start
        self.draw = draw

    def __iter__(self) -> Iterator[Episodes]:
        for step in range(self.start, self.schedule.steps):
            yield self.draw(self.schedule.plan(step), self.schedule.seed * 7_919 + step)


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


def draw_real(plan: Plan, seed: int, library: Library) -> Episodes:
    """Return one batch of episodes of real anatomies alone: label maps with invented looks, or scans with their own."""
    generator = torch.Generator().manual_seed(seed)
    scans = bool(library.scans) and (seed % 4 < 2 or not library.maps)
    return render(library.draw(plan.episodes, generator, scans=scans), plan, generator)


def draw_classes(plan: Plan, seed: int, classes: Classes) -> Episodes:
    """Return one batch of episodes of labelled images."""
    return classes.draw(plan, torch.Generator().manual_seed(seed))


@dataclass
class Run:
    """A run in its folder: `state.pt` to resume, `weights.safetensors` to use, `log.jsonl` and `curve.png` to read."""

    folder: Path
    schedule: Schedule
    course: Course
    model: Sam2
    average: nn.Module
    began: Mapping[str, Tensor]
    optimisers: list[Optimizer]
    step: int = 0

    @classmethod
    def start(cls, folder: Path, schedule: Schedule, course: Course, model: Sam2) -> Run:
        """Return a new run from the weights of `model`, which it takes over; or the one `folder` holds, resumed.

        Raises:
            InputError: that one was moved by other optimisers.
        """
        # Channels last: half the time of a backward pass on processors with bfloat16 matrix units.
        network = model.network.to(memory_format=torch.channels_last)
        average = deepcopy(network).requires_grad_(False)
        began = {name: value.clone() for name, value in network.state_dict().items()}
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(course.learning))
        run = cls(folder, schedule, course, model, average, began, course.optimisers(network))
        folder.mkdir(parents=True, exist_ok=True)
        if run._state.exists():
            run._resume()
        return run

    @property
    def _state(self) -> Path:
        return self.folder / "state.pt"

    def _resume(self) -> None:
        state = torch.load(self._state, map_location=self.model.device, weights_only=True)
        if len(state.get("optimisers", ())) != len(self.optimisers):
            raise InputError(
                f"'{self.folder}' holds a run by other optimisers, of another preset or an older release.",
                f"Begin anew in another folder; its weights are a start: -m builtin={self.folder / WEIGHTS}",
            )
        self.model.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for optimiser, its in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(its)
        self.began = state["began"]
        self.step = state["step"]

    def save(self) -> None:
        """Write what is needed to resume, and the result so far in float16 as the package ships it."""
        state = {
            "network": self.model.network.state_dict(),
            "average": self.average.state_dict(),
            "began": dict(self.began),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
        }
        part = self._state.with_suffix(".part")
        torch.save(state, part)
        part.replace(self._state)
        half = {name: value.half().contiguous() for name, value in self.result().items()}
        (self.folder / "weights.part").write_bytes(save(half))
        (self.folder / "weights.part").replace(self.folder / WEIGHTS)

    def advance(self, episodes: Episodes) -> dict[str, float]:
        """Take one optimiser step; return its loss and Dice by question."""
        generator = torch.Generator().manual_seed(self.schedule.seed * 104_729 + self.step)
        for group in (group for optimiser in self.optimisers for group in optimiser.param_groups):
            group["lr"] = self.schedule.rate(self.step)
        self.model.set_image_size(episodes.pixels.shape[-1])
        answers = self.course.ask(self.model, episodes, generator)
        self.model.network.zero_grad(set_to_none=True)
        answers.loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.network.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self._track_average()
        self.step += 1
        return {"loss": answers.loss.item(), **answers.dice}

    def _track_average(self) -> None:
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.network.parameters()), 1 - decay)

    def result(self) -> dict[str, Tensor]:
        """Return the averaged weights, mixed with those the run began with as the schedule says."""
        keep = self.schedule.keep
        return {name: torch.lerp(value, self.began[name], keep) for name, value in self.average.state_dict().items()}

    def validate(self) -> dict[str, float]:
        """Return the Dice of the result so far on fixed episodes no training step draws, on the smallest frames."""
        side = min(side for side, _ in self.schedule.sides)
        network = deepcopy(self.average)
        network.load_state_dict(self.result())
        model = Sam2(network, self.model.name, side)
        shown = max(self.schedule.supports, key=self.schedule.supports.count)
        kinds = (False, True) if self.schedule.consecutive else (False,)
        results = []
        for number in range(VALIDATION_BATCHES * len(kinds)):
            plan = Plan(min(8, self.schedule.episodes), shown, 2, side, kinds[number % len(kinds)])
            for origin, drawn in self.course.validate.items():
                episodes = drawn(plan, VALIDATION_SEED + number).to(model.device)
                with torch.no_grad():
                    answers = self.course.ask(model, episodes, torch.Generator().manual_seed(number))
                results += [{f"{origin}_{name}": value} for name, value in answers.dice.items()]
        return _mean(results)


def pretrain(
    run: Run, *, validate_every: int = 250, on_step: Callable[[int, dict[str, float]], None] | None = None
) -> None:
    """Train until the schedule's end; log every 25 steps; save, validate and draw the curve every `validate_every`."""
    stream = EpisodeStream(run.schedule, run.step, run.course.draw)
    loader = DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=4)
    recent: list[dict[str, float]] = []
    began = time.monotonic()
    for episodes in loader:
        recent.append(run.advance(episodes.to(run.model.device)))
        if on_step:
            on_step(run.step, recent[-1])
        if run.step % 25 == 0:
            _log(run, {**_mean(recent), "seconds": round(time.monotonic() - began, 1)})
            recent.clear()
        if run.step % validate_every == 0 or run.step == run.schedule.steps:
            run.save()
            _log(run, run.validate())
            _draw_curve(run.folder)


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


def _draw_curve(folder: Path) -> None:
    """Draw the log as `curve.png`, where there is something to draw it with."""
    try:
        write_curve(folder / "log.jsonl", folder / "curve.png")
    except ImportError:
        log.info("no curve.png: it needs matplotlib, of the extra amsam[bench]")
