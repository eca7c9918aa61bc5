"""The papers' protocol: episodes of K annotated pictures and one query, scored by mIoU and FB-IoU.

A class is drawn from those of the fold, then the query and K other pictures that show it. Intersections and unions are
added up over all episodes: mIoU is the mean over classes of their ratio, FB-IoU that of foreground and background.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from amsam_cli.bench.base import Method, Query
from amsam_cli.bench.claims import claimed
from amsam_cli.bench.machine import describe_machine
from amsam_cli.bench.voc import IGNORED, EpisodeSource
from amsam_cli.errors import InputError
from amsam_cli.report import Json, markdown_rows, read_json, write_json
from amsam_cli.volume import Geometry, LabelMap, Shot, Volume

if TYPE_CHECKING:
    from amsam_cli.models.base import OnStep

log = logging.getLogger(__name__)

EPISODES = 1000
OBJECT = 1
WRITE_EVERY = 20
"""Episodes after which what was counted is written, so that a run can be stopped at any time."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One task: learn a class from some pictures, find it in another.

    Attributes:
        number: the class.
        supports: names of the annotated pictures.
        query: name of the picture to segment.
    """

    number: int
    supports: tuple[str, ...]
    query: str


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is asked.

    Attributes:
        fold: which classes are tested.
        shots: annotated pictures of an episode.
        episodes: how many.
        seed: of the draw and of the method.
    """

    fold: int
    shots: int = 1
    episodes: int = EPISODES
    seed: int = 0


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """What a method did in the episodes of one fold so far.

    Attributes:
        set: name of the data set.
        protocol: what was asked.
        method: its name.
        version: the method's.
        settings: the method's.
        done: how many episodes are counted.
        counts: class number -> pixels of intersection and union.
        background: pixels of intersection and union of what is not the class, over all episodes.
        seconds: for all of them, learning included.
        machine: what it ran on.
    """

    set: str
    protocol: Protocol
    method: str
    version: str
    settings: Mapping[str, Json]
    done: int = 0
    counts: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    background: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    machine: str = ""

    @property
    def place(self) -> Path:
        """Where it lies in a folder of results."""
        asked = self.protocol
        return (
            Path(self.set) / f"fold-{asked.fold}_{asked.shots}-shot_seed-{asked.seed}_{self.method}_{self.version}.json"
        )

    @property
    def miou(self) -> float:
        """The mean over classes of intersection over union."""
        return float(np.mean([inside / max(union, 1) for inside, union in self.counts.values()]))

    @property
    def fb_iou(self) -> float:
        """The mean of the foreground's and the background's intersection over union."""
        inside, union = (sum(pair[place] for pair in self.counts.values()) for place in (0, 1))
        foreground, background = inside / max(union, 1), self.background[0] / max(self.background[1], 1)
        return float(foreground + background) / 2

    def repeats(self, other: Self) -> bool:
        """Return whether it is of the same task, method and settings."""
        mine, its = ((each.set, each.protocol, each.place, dict(each.settings)) for each in (self, other))
        return mine == its

    def counted(self, number: int, found: NDArray[np.bool_], truth: NDArray[np.uint8]) -> Self:
        """Return it with one more episode: what was found (H, W), and the mask (H, W) with `IGNORED` pixels."""
        known, real = truth != IGNORED, truth == OBJECT
        both, either = int((found & real & known).sum()), int(((found | real) & known).sum())
        neither, outside = int((~found & ~real & known).sum()), int(((~found | ~real) & known).sum())
        inside, union = self.counts.get(number, (0, 0))
        return replace(
            self,
            done=self.done + 1,
            counts={**self.counts, number: (inside + both, union + either)},
            background=(self.background[0] + neither, self.background[1] + outside),
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the result in a file.

        Raises:
            InputError: it is no result.
        """
        content = read_json(path)
        try:
            counts = {int(number): (pair[0], pair[1]) for number, pair in content.pop("counts").items()}
            protocol = Protocol(**content.pop("protocol"))
            background = content.pop("background")
            return cls(**content, protocol=protocol, counts=counts, background=(background[0], background[1]))
        except (KeyError, TypeError, IndexError) as err:
            raise InputError(f"'{path}' is no result of episodes: {err}.", "Remove it and run again.") from err


def draw_episodes(source: EpisodeSource, asked: Protocol) -> list[Episode]:
    """Return the episodes of a fold; equal data and seeds draw equal ones, and fewer are the first of more.

    Raises:
        InputError: no class of the fold has pictures enough.
    """
    enough = {n: source.members.get(n, ()) for n in source.classes(asked.fold)}
    enough = {number: names for number, names in enough.items() if len(names) > asked.shots}
    if not enough:
        raise InputError(
            f"No class of fold {asked.fold} has {asked.shots + 1} pictures in '{source.name}'.",
            "Check that the data set is complete.",
        )
    chance = random.Random(f"{source.name} {asked.fold} {asked.shots} {asked.seed}")
    episodes = []
    for _ in range(asked.episodes):
        number = chance.choice(sorted(enough))
        query, *supports = chance.sample(list(enough[number]), asked.shots + 1)
        episodes.append(Episode(number, tuple(supports), query))
    return episodes


def run_episodes(
    source: EpisodeSource,
    method: Method,
    asked: Protocol,
    output: Path,
    *,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> EpisodeResult:
    """Return what a method did in the episodes of a fold; what `output` holds of them is not run again.

    A fold that another process is at is left to it, as far as it has come.

    Raises:
        InputError: the data set cannot be read.
    """
    blank = EpisodeResult(source.name, asked, method.name, method.version, method.settings)
    with claimed(output / blank.place) as is_ours:
        result = replace(_resumed(blank, output), machine=describe_machine(device))
        if is_ours:
            return _run(source, method, result, output, on_step)
        log.warning("%s is being run by another process; left to it.", result.place)
        return result


def _run(
    source: EpisodeSource, method: Method, result: EpisodeResult, output: Path, on_step: OnStep | None
) -> EpisodeResult:
    """Return a result with the episodes it lacks, written every few of them."""
    asked = result.protocol
    episodes = draw_episodes(source, asked)
    if result.done:
        log.info("%s goes on after %d episodes", result.place, result.done)
    for index in range(result.done, len(episodes)):
        began = time.perf_counter()
        found, truth = _answer(source, method, episodes[index], seed=asked.seed)
        result = result.counted(episodes[index].number, found, truth)
        result = replace(result, seconds=round(result.seconds + time.perf_counter() - began, 3))
        if on_step:
            on_step(f"fold {asked.fold}", result.done, len(episodes))
        if result.done % WRITE_EVERY == 0 or result.done == len(episodes):
            write_json(asdict(result), output / result.place)
    return result


def _resumed(blank: EpisodeResult, output: Path) -> EpisodeResult:
    path = output / blank.place
    if not path.is_file():
        return blank
    found = EpisodeResult.read(path)
    return found if found.repeats(blank) else blank


def _answer(
    source: EpisodeSource, method: Method, episode: Episode, *, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Return what a method finds in the query (H, W) at the picture's own size, and the truth."""
    names = {OBJECT: source.name}
    shots = [_shot(source, name, episode.number, names) for name in episode.supports]
    truth = source.mask(episode.query, episode.number)
    volume = _volume(source.picture(episode.query))
    asked = Query(volume, _labels(truth, volume.geometry, names))
    found = method.fit(shots, seed=seed).segment(asked)
    return found.mask(OBJECT)[0], truth


def _shot(source: EpisodeSource, name: str, number: int, names: Mapping[int, str]) -> Shot:
    volume = _volume(source.picture(name))
    labels = _labels(source.mask(name, number), volume.geometry, names)
    return Shot(volume, labels, lambda: volume, name, name)


def _volume(picture: NDArray[np.uint8]) -> Volume:
    data = np.ascontiguousarray(picture.transpose(2, 0, 1)[:, None], dtype=np.float32)
    return Volume(data, Geometry.of_picture(*picture.shape[:2]), (0.0, 255.0))


def _labels(mask: NDArray[np.uint8], geometry: Geometry, names: Mapping[int, str]) -> LabelMap:
    return LabelMap((mask == OBJECT).astype(np.uint16)[None], geometry, names)


def episode_table(results: Sequence[EpisodeResult]) -> str:
    """Return results as Markdown: a row for each method and shot count, mIoU of each fold and their means.

    A fold that has not all its episodes says how many.
    """
    if not results:
        return "No results yet."
    folds = sorted({result.protocol.fold for result in results})
    header = ["Method", "Shots", *(f"Fold {fold}" for fold in folds), "mIoU", "FB-IoU", "Episodes"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for method, version, shots in dict.fromkeys((r.method, r.version, r.protocol.shots) for r in results):
        row = [r for r in results if (r.method, r.version, r.protocol.shots) == (method, version, shots)]
        by_fold = {result.protocol.fold: result for result in row}
        cells = [_percent(by_fold[fold].miou) if fold in by_fold else "–" for fold in folds]
        means = [_percent(float(np.mean([getattr(r, what) for r in row]))) for what in ("miou", "fb_iou")]
        lines.append([f"{method} {version}", str(shots), *cells, *means, str(sum(result.done for result in row))])
    return markdown_rows(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
