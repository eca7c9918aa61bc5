"""nnU-Net v2, run from its own package on exactly the annotated slices: the peer that supervised learning sends.

Plans, preprocesses, augments and predicts as the package does. A scan goes in whole, with its unannotated slices under
nnU-Net's own ignore label, so that intensities are scaled over the scan and only annotated slices teach.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from numpy.typing import NDArray

from amsam_cli.bench.base import Query
from amsam_cli.errors import ResourceError
from amsam_cli.models.base import OnStep
from amsam_cli.models.precision import mixed_precision
from amsam_cli.preprocess import fit as fit_recipe
from amsam_cli.report import Json, read_json, write_json
from amsam_cli.volume import Geometry, LabelMap, Shot, Volume

VERSION = "1"
DATASET = "Dataset001_shots"
SIDE = 256
"""Longest side of a slice in pixels after nnU-Net's own resampling, as other methods see it."""
STRETCH = 25
"""Steps of which the mean loss is one point of the training curve."""
FAIR_CPU_S = 1800.0
"""On a processor, less than this is no fair chance."""
STILL_LEARNING = 0.02
"""A training curve that falls by more than this over its last fifth has not come to its end."""


@dataclass(frozen=True, slots=True)
class NnUNet:
    """nnU-Net's 2D configuration, fold `all`, for a budget of time over which its learning rate decays.

    Attributes:
        name: in tables.
        budget_s: seconds of training; of processor time on a CPU, which other programs cannot take away.
        device: where it runs.
    """

    name: str = "nnunet"
    budget_s: float = FAIR_CPU_S
    device: str = "cpu"

    @property
    def version(self) -> str:
        """Of this file and of the package."""
        return f"{VERSION}-{version('nnunetv2')}"

    @property
    def settings(self) -> Mapping[str, Json]:
        """What differs from nnU-Net as it comes; all else is its own."""
        return {
            "package": f"nnunetv2 {version('nnunetv2')}",
            "configuration": "2d, fold all, own plans, augmentation and mirroring at test time",
            "unannotated_slices": "ignore label",
            "longest_side_px": SIDE,
            "budget_s": self.budget_s,
            "schedule": "its polynomial learning rate over the budget instead of over 250,000 steps",
            "precision": "bfloat16 autocast where the processor has it",
        }

    def fit(self, shots: Sequence[Shot], *, seed: int, on_step: OnStep | None = None) -> TrainedNnUNet:
        """Return the network trained on exactly these slices."""
        dataset = _Dataset.of(shots)
        with tempfile.TemporaryDirectory(prefix="nnunet_") as folder, _home(Path(folder)) as log:
            dataset.write(Path(folder) / "raw" / DATASET)
            _plan_and_preprocess(dataset)
            plans = Path(folder) / "preprocessed" / DATASET / "nnUNetPlans.json"
            random_state = np.random.get_state()  # noqa: NPY002
            with torch.random.fork_rng(), redirect_stdout(log):
                torch.manual_seed(seed)
                np.random.seed(seed)  # noqa: NPY002 - nnU-Net draws from the global generator
                content = {**read_json(plans), "continue_training": False}
                told = read_json(Path(folder) / "raw" / DATASET / "dataset.json")
                trainer = BudgetTrainer(content, "2d", "all", told, torch.device(self.device))
                curve = trainer.train_for(self.budget_s, on_step)
                predictor = _predictor_of(trainer)
            np.random.set_state(random_state)  # noqa: NPY002
        return TrainedNnUNet(predictor, dataset, self._notes(curve))

    def _notes(self, curve: Sequence[float]) -> tuple[str, ...]:
        short = self.device == "cpu" and self.budget_s < FAIR_CPU_S
        fall = _fall(curve)
        steps = f"{len(curve) * STRETCH} steps, loss fell by {fall:.3f} over the last fifth"
        return ("under-trained", steps) if short or fall > STILL_LEARNING else (steps,)


def _fall(curve: Sequence[float]) -> float:
    """Return how much the curve fell from its last fifth but one to its last; infinite where it is too short to tell.

    >>> round(_fall([1.0, 0.8, 0.6, 0.5, 0.45, 0.42, 0.41, 0.41, 0.4, 0.4]), 3)
    0.01
    """
    fifth = len(curve) // 5
    if not fifth:
        return float("inf")
    return float(np.mean(curve[-2 * fifth : -fifth]) - np.mean(curve[-fifth:]))


class BudgetTrainer(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's trainer with a loop that ends by the clock, and without checkpoints or validation on its own lesson."""

    def train_step(self, batch: Mapping[str, torch.Tensor]) -> Mapping[str, NDArray[np.float32]]:
        """Do nnU-Net's step, in the arithmetic the processor is fast in."""
        with mixed_precision(self.device):
            result: Mapping[str, NDArray[np.float32]] = super().train_step(batch)
        return result

    def train_for(self, budget_s: float, on_step: OnStep | None = None) -> list[float]:
        """Train for a budget of seconds and return the mean loss of every stretch of steps."""
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        self.on_train_start()
        self.network.train()
        curve: list[float] = []
        began = clock()
        while (spent := (clock() - began) / budget_s) < 1:
            for group in self.optimizer.param_groups:
                group["lr"] = self.initial_lr * (1 - spent) ** 0.9
            steps = (self.train_step(next(self.dataloader_train)) for _ in range(STRETCH))
            curve.append(float(np.mean([step["loss"] for step in steps])))
            if on_step:
                on_step("nnunet", min(round(100 * spent), 100), 100)
        return curve


@dataclass(frozen=True, slots=True, eq=False)
class TrainedNnUNet:
    """A trained predictor and how scans are handed to it.

    Attributes:
        predictor: nnU-Net's own.
        dataset: names and channels.
        notes: "under-trained" where it had too little time, and how long it trained.
    """

    predictor: nnUNetPredictor
    dataset: _Dataset
    notes: tuple[str, ...] = ()

    def segment(self, query: Query) -> LabelMap:
        """Return nnU-Net's labels, which it brings to the scan's own grid itself."""
        scan = query.volume
        spacing = {"spacing": _spacing(scan.geometry)}
        with redirect_stdout(io.StringIO()):
            classes = self.predictor.predict_single_npy_array(self.dataset.channels_of(scan), spacing)
        values = np.array([0, *self.dataset.names], dtype=np.uint16)
        return LabelMap(values[classes.astype(int)], scan.geometry, dict(self.dataset.names))


@dataclass(frozen=True, slots=True, eq=False)
class _Dataset:
    """Shots as nnU-Net's raw data: each scan with its annotated slices, the others ignored."""

    names: Mapping[int, str]
    kind: str
    channels: int
    scans: Sequence[tuple[Volume, NDArray[np.uint8]]]

    @classmethod
    def of(cls, shots: Sequence[Shot]) -> _Dataset:
        values = sorted({value for shot in shots for value in shot.labels.values()})
        names = {value: shots[0].labels.names.get(value, f"label_{value}") for value in values}
        recipe = fit_recipe(shots, image_size=SIDE, plane=None)
        kind = "CT" if recipe.window else "rgb" if recipe.channels == 3 else "MRI"
        by_scan: dict[str, list[Shot]] = defaultdict(list)
        for shot in shots:
            by_scan[shot.origin.rpartition(":")[0] or shot.origin].append(shot)
        ignore = len(names) + 1
        return cls(names, kind, recipe.channels, [_annotated(group, values, ignore) for group in by_scan.values()])

    @property
    def has_ignored(self) -> bool:
        """Whether any scan has a slice that nobody annotated."""
        return any((classes == len(self.names) + 1).any() for _, classes in self.scans)

    def channels_of(self, scan: Volume) -> NDArray[np.float32]:
        """Return a scan (C, D, H, W) with as many channels as the shots have."""
        if len(scan.data) == self.channels:
            return scan.data
        return np.repeat(scan.data.mean(axis=0, keepdims=True), self.channels, axis=0).astype(np.float32)

    def write(self, folder: Path) -> None:
        """Write images, labels and dataset.json in nnU-Net's layout."""
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
        for number, (scan, classes) in enumerate(self.scans):
            size = _spacing(scan.geometry)
            for channel, data in enumerate(self.channels_of(scan)):
                _write(data, size, folder / "imagesTr" / f"scan_{number:03d}_{channel:04d}.nii.gz")
            _write(classes, size, folder / "labelsTr" / f"scan_{number:03d}.nii.gz")
        channels = ["R", "G", "B"] if self.kind == "rgb" else [self.kind] * self.channels
        labels = {"background": 0, **{f"class_{number + 1}": number + 1 for number in range(len(self.names))}}
        if self.has_ignored:
            labels["ignore"] = len(self.names) + 1
        content: dict[str, Json] = {
            "channel_names": {str(number): name for number, name in enumerate(channels)},
            "labels": labels,
            "numTraining": len(self.scans),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
        }
        write_json(content, folder / "dataset.json")

    @property
    def target_spacing(self) -> list[float] | None:
        """The spacing that brings the longest side of the median slice to `SIDE`; None where it is shorter."""
        sizes = [max(scan.geometry.shape[1:]) for scan, _ in self.scans]
        factor = float(np.median(sizes)) / SIDE
        if factor <= 1:
            return None
        spacings = np.median([_spacing(scan.geometry) for scan, _ in self.scans], axis=0)
        return [float(spacings[0]), float(spacings[1] * factor), float(spacings[2] * factor)]


def _annotated(shots: Sequence[Shot], values: Sequence[int], ignore: int) -> tuple[Volume, NDArray[np.uint8]]:
    """Return the scan of some shots and its classes (D, H, W), `ignore` on slices that are none of the shots."""
    scan = shots[0].scan()
    classes = np.full(scan.geometry.shape, ignore, dtype=np.uint8)
    for shot in shots:
        numbered = np.searchsorted(values, shot.labels.data[0]) + 1
        classes[round(shot.position * (scan.depth - 1))] = np.where(shot.labels.data[0] > 0, numbered, 0)
    return scan, classes


def _spacing(geometry: Geometry) -> list[float]:
    """Return the spacing as nnU-Net gets it: slices are farthest apart, so that it cuts the same slices as we do.

    The distance of slices plays no part in its 2D configuration.
    """
    depth, height, width = geometry.spacing
    apart = 999.0 if geometry.shape[0] == 1 else max(depth, height, width)
    return [apart, height, width]


def _write(data: NDArray[np.generic], spacing: Sequence[float], path: Path) -> None:
    image = sitk.GetImageFromArray(data)
    image.SetSpacing(list(reversed(spacing)))
    sitk.WriteImage(image, str(path))


@contextmanager
def _home(folder: Path) -> Iterator[io.StringIO]:
    """Give nnU-Net its folders and one process, for as long as it learns; what it says goes to the text given."""
    places = {f"nnUNet_{part}": str(folder / part) for part in ("raw", "preprocessed", "results")}
    asked = {**places, "nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}
    before = {name: os.environ.get(name) for name in asked}
    os.environ.update(asked)
    try:
        yield io.StringIO()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _plan_and_preprocess(dataset: _Dataset) -> None:
    entry = (
        "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry as e; e()"
    )
    options = ["-d", "1", "-c", "2d", "-np", "1", "-npfp", "1", "--no_pbar"]
    if dataset.target_spacing:
        options += ["-overwrite_target_spacing", *map(str, dataset.target_spacing)]
        options += ["-overwrite_plans_name", "nnUNetPlans"]
    # Its planner counts the processes for augmentation and stumbles over none, which is what training here has.
    environment = {**os.environ, "nnUNet_n_proc_DA": "1"}
    command = [sys.executable, "-c", entry, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ResourceError(
            f"nnU-Net could not plan its training: {last}", "Run it by hand: nnUNetv2_plan_and_preprocess."
        )


def _predictor_of(trainer: BudgetTrainer) -> nnUNetPredictor:
    trainer.set_deep_supervision_enabled(False)
    network = trainer.network.eval()
    predictor = nnUNetPredictor(
        perform_everything_on_device=trainer.device.type == "cuda", device=trainer.device, allow_tqdm=False
    )
    predictor.manual_initialization(
        network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    return predictor
