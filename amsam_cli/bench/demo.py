"""The demo: adapt, segment and evaluate on the sample data that comes with amsam, offline, with the built-in model."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from amsam_cli import models
from amsam_cli.adaptation import adapt, choose
from amsam_cli.adapter import DESCRIPTION, Adapter, AdapterConfig
from amsam_cli.batch import Engine, Options, segment_case
from amsam_cli.errors import ResourceError
from amsam_cli.evaluation import evaluate
from amsam_cli.io import Case, atomic_folder, find_shots
from amsam_cli.models.base import MemoryModel, OnStep
from amsam_cli.report import Report, RunRecord, write_json

SHOTS = 4
CONFIG = AdapterConfig(forecast=False)
"""The forecast refits twice; a first look should not take three times as long."""


@dataclass(frozen=True, slots=True, eq=False)
class Demo:
    """What the demo found.

    Attributes:
        adapter: learned from four slices of two invented patients.
        record: how a third patient was segmented.
        report: how well.
    """

    adapter: Adapter
    record: RunRecord
    report: Report


def find_sample_data() -> Path:
    """Return the folder of the sample data: inside the installed package, else in the checkout.

    Raises:
        ResourceError: neither is there.
    """
    inside = Path(str(resources.files("amsam_cli"))) / "sample_data"
    places = inside, inside.parents[1] / "sample_data"
    found = next((place for place in places if (place / "scan.nii.gz").is_file()), None)
    if found is None:
        raise ResourceError("The sample data are missing from this installation.", "Install amsam again.")
    return found


def run_demo(output: Path, *, device: str = "auto", on_step: OnStep | None = None) -> Demo:
    """Adapt to four annotated slices, segment another patient's scan, evaluate, and leave everything in `output`.

    Raises:
        InputError: `output` cannot be written, or there is no such device.
        WeightsError: the built-in weights are missing.
        ResourceError: the sample data are missing, or memory or disk ran out.
    """
    samples = find_sample_data()
    model = models.load("builtin", device)
    assert isinstance(model, MemoryModel)
    with atomic_folder(output / "adapter", marker=DESCRIPTION) as folder:
        shots = [candidate.read() for candidate in choose(find_shots(samples / "labels"), SHOTS)]
        adapter = adapt(shots, model, config=CONFIG, on_step=on_step)
        adapter.save(folder)
    mask = output / "mask.nii.gz"
    engine = Engine(adapter, adapter.sha256, model, model)
    options = Options(preview=True, statistics=True, overwrite=True)
    record = segment_case(Case(samples / "scan.nii.gz", "scan"), engine, mask, options, on_step=on_step)
    report = evaluate(mask, samples / "reference.nii.gz")
    write_json(report.to_json(), output / "metrics.json")
    return Demo(adapter, record, report)
