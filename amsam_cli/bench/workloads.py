"""What `amsam bench speed` times: start-up of the command line, learning from shots, and measuring large masks.

Each function returns a group of works whose first is what the others are compared with.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from amsam_cli.bench.base import Method
from amsam_cli.bench.speed import Work
from amsam_cli.errors import InputError
from amsam_cli.volume import Shot

SHORT = ("start-up", "learning", "evaluation", "propagation")


def startup_works() -> list[Work]:
    """Return the start of an empty Python, of the library, and of the command line that loads no torch."""
    commands = {
        "python, doing nothing": ("-c", "pass"),
        "import amsam_cli": ("-c", "import amsam_cli"),
        "amsam --version": ("-m", "amsam_cli", "--version"),
        "amsam --help": ("-m", "amsam_cli", "--help"),
        "amsam evaluate --help": ("-m", "amsam_cli", "evaluate", "--help"),
    }
    return [Work(name, "start-up", _starting(argv), own_process=True) for name, argv in commands.items()]


def _starting(argv: Sequence[str]) -> Callable[[], Callable[[], object]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}

    def run() -> object:
        return subprocess.run([sys.executable, *argv], check=True, capture_output=True, env=environment)

    return lambda: run


def learning_works(methods: Sequence[Method], shots: Sequence[Shot]) -> list[Work]:
    """Return learning from the same shots by each method; loading a model is counted, as users wait for it too."""

    def learning(method: Method) -> Callable[[], Callable[[], object]]:
        return lambda: lambda: method.fit(shots, seed=0)

    return [Work(f"{method.name} learns from {len(shots)} slices", "learning", learning(method)) for method in methods]


def evaluation_works() -> list[Work]:
    """Return the measuring of a pair of masks of 512 x 512 x 500 voxels with five labels."""

    def measuring() -> Callable[[], object]:
        from amsam_cli.metrics import measure_labels

        prediction, reference = large_pair()
        return lambda: measure_labels(prediction, reference, spacing=(1.0, 0.8, 0.8))

    return [Work("all metrics of 5 labels, 512 x 512 x 500", "evaluation", measuring)]


def large_pair(shape: tuple[int, int, int] = (500, 512, 512)) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return two label maps (D, H, W) of five organs: warped ellipsoids as large as in an abdomen, one map moved."""
    maps = []
    for shift in (0.0, 0.008):
        labels = np.zeros(shape, dtype=np.uint8)
        d, h, w = (np.linspace(0, 1, size, dtype=np.float32) for size in shape)
        for label, (place, radius) in enumerate(_ORGANS, start=1):
            waves = 0.15 * np.sin(25 * d)[:, None, None] * np.sin(25 * h)[:, None] * np.sin(25 * w)
            apart = ((d - place[0] - shift) / radius[0])[:, None, None] ** 2
            apart = apart + ((h - place[1]) / radius[1])[:, None] ** 2 + ((w - place[2] - shift) / radius[2]) ** 2
            labels[apart + waves < 1] = label
        maps.append(labels)
    return maps[0], maps[1]


_ORGANS = (
    ((0.55, 0.45, 0.33), (0.2, 0.17, 0.18)),
    ((0.55, 0.55, 0.72), (0.1, 0.1, 0.08)),
    ((0.45, 0.62, 0.35), (0.1, 0.06, 0.06)),
    ((0.45, 0.62, 0.65), (0.1, 0.06, 0.06)),
    ((0.5, 0.55, 0.5), (0.45, 0.03, 0.03)),
)
"""Centre and radii of liver, spleen, kidneys and aorta, in shares of (D, H, W)."""


def works_of(groups: Sequence[str], *, device: str = "cpu") -> list[Work]:
    """Return the works of some groups; for none all but the long ones, which take up to hours on a processor.

    Raises:
        InputError: there is no such group.
    """
    makers: Mapping[str, Callable[[], list[Work]]] = {
        "start-up": startup_works,
        "learning": lambda: _sample_learning(device),
        "evaluation": evaluation_works,
        "propagation": _propagation,
        "sizes": lambda: _sizes(device),
        "depth": _depth,
        "propagation-many": _propagation_of_many,
        "propagation-full": _propagation_at_length,
    }
    unknown = [group for group in groups if group not in makers]
    if unknown:
        raise InputError(f"There is no group '{unknown[0]}' to time.", f"Choose from {', '.join(makers)}.")
    return [work for group in groups or SHORT for work in makers[group]()]


def _propagation() -> list[Work]:
    """Return carrying one and five labels through a few slices, SAM 2's own predictor first."""
    from amsam_cli.bench.propagation import propagation_works

    return propagation_works(precisions=_precisions())


def _propagation_of_many() -> list[Work]:
    """Return the same with 20 labels."""
    from amsam_cli.bench.propagation import propagation_works

    return propagation_works(labels=(20,), precisions=_precisions())


def _precisions() -> tuple[str, ...]:
    """Return what masks are carried in: in bfloat16 too, where this processor gains by it."""
    from torch import device

    from amsam_cli.models.precision import gains_by_bfloat16

    return ("fp32", "bf16") if gains_by_bfloat16(device("cpu")) else ("fp32",)


def _propagation_at_length() -> list[Work]:
    """Return the same through 200 slices, with 20 labels too, in both precisions."""
    from amsam_cli.bench.propagation import propagation_works

    return propagation_works(slices=200, labels=(1, 5, 20), precisions=("fp32", "bf16"))


def _sizes(device: str) -> list[Work]:
    """Return encoding and learning by models of every size."""
    from amsam_cli.bench.sizes import size_works

    return size_works(device=device)


def _depth() -> list[Work]:
    """Return segmenting volumes of 50, 200 and 800 slices."""
    from amsam_cli.bench.depth import depth_works

    return depth_works()


def _sample_learning(device: str) -> list[Work]:
    """Return learning from four slices of the sample data, a U-Net first."""
    from amsam_cli.adaptation import choose
    from amsam_cli.bench.contenders import load_method
    from amsam_cli.bench.demo import find_sample_data
    from amsam_cli.io import find_shots

    shots = [candidate.read() for candidate in choose(find_shots(find_sample_data() / "labels"), 4)]
    return learning_works([load_method(name, device) for name in ("unet-128", "amsam-in-context", "amsam")], shots)
