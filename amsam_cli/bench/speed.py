"""How long things take and how much memory they need, as ratios within one run on one machine.

Seconds of two machines, or of one on two days, cannot be compared; a ratio to a piece of work done in the same run can.
Owns the stop-watch and its table. What is timed comes from elsewhere: `amsam_cli.bench.workloads` and its callers.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from amsam_cli.report import Json, Table, peak_memory_mib

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """One thing to time.

    Attributes:
        name: in the table.
        group: works of one group are compared with the first of them.
        prepare: makes everything ready, untimed and uncounted, and returns what is timed.
        per: how many pieces one run does, such as slices; seconds are per piece.
        own_process: whether it measures in another process, whose memory is not seen here.
    """

    name: str
    group: str
    prepare: Callable[[], Callable[[], object]]
    per: int = 1
    own_process: bool = False


@dataclass(frozen=True, slots=True)
class Timing:
    """What one work took.

    Attributes:
        name: the work's.
        group: the work's.
        seconds: median over the repeats, per piece.
        fastest: the least of them.
        ratio: seconds over those of the group's first work.
        peak_memory_mib: the most that the process held meanwhile; None where the system does not tell.
    """

    name: str
    group: str
    seconds: float
    fastest: float
    ratio: float
    peak_memory_mib: float | None


def time_works(
    works: Sequence[Work], *, repeats: int = 3, on_step: Callable[[str, int, int], None] | None = None
) -> list[Timing]:
    """Return what each work took, in order.

    The works of a group take turns, so that a machine that slows down slows all of them; each is prepared anew before
    every turn.
    """
    seconds: dict[Work, list[float]] = {work: [] for work in works}
    memory: dict[Work, list[float]] = {work: [] for work in works}
    groups = dict.fromkeys(work.group for work in works)
    turns = [work for group in groups for _ in range(repeats) for work in works if work.group == group]
    for done, work in enumerate(turns):
        if on_step:
            on_step(work.name, done, len(turns))
        taken, peak = _time_once(work)
        seconds[work].append(taken)
        memory[work] += [] if peak is None else [peak]
    if on_step:
        on_step("speed", len(turns), len(turns))
    return [_timing(work, works, seconds, memory[work]) for work in works]


def _time_once(work: Work) -> tuple[float, float | None]:
    _give_back()
    run = work.prepare()
    fresh = _forget_peak()
    began = time.perf_counter()
    run()
    taken = (time.perf_counter() - began) / work.per
    return taken, None if work.own_process or not fresh else _peak_since()


def _timing(
    work: Work, works: Sequence[Work], seconds: Mapping[Work, Sequence[float]], memory: Sequence[float]
) -> Timing:
    first = next(other for other in works if other.group == work.group)
    taken = statistics.median(seconds[work])
    ratio = taken / max(statistics.median(seconds[first]), 1e-9)
    return Timing(work.name, work.group, taken, min(seconds[work]), ratio, max(memory, default=None))


def _give_back() -> None:
    """Return to the system what earlier works freed and the allocator kept, which would count as the next one's."""
    gc.collect()
    if _RESET.exists() and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _forget_peak() -> bool:
    """Set the process's high-water mark of memory to what it holds now; False where the system cannot."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def _peak_since() -> float:
    """Return the high-water mark of memory since `_forget_peak`, in MiB."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    return peak_memory_mib()


def speed_table(timings: Sequence[Timing]) -> Table:
    """Return timings as text for the eye, the header first."""
    rows: Table = [["Group", "What", "Seconds", "Ratio", "Peak memory (MiB)", "Compared with"]]
    for timing in timings:
        first = next(other.name for other in timings if other.group == timing.group)
        memory = "–" if timing.peak_memory_mib is None else f"{timing.peak_memory_mib:.0f}"
        compared = "" if timing.name == first else first
        rows.append([timing.group, timing.name, f"{timing.seconds:.3g}", f"{timing.ratio:.2f}", memory, compared])
    return rows


def speed_json(timings: Sequence[Timing], *, repeats: int) -> dict[str, Json]:
    """Return {"rows", "repeats"} for `write_json`."""
    return {"rows": [asdict(timing) for timing in timings], "repeats": repeats}
