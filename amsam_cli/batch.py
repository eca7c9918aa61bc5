"""Scans to masks on disk: one scan is a batch of one.

Decides where masks go, skips what is finished, keeps one bad case from stopping the others, and leaves a record beside
every mask. Knows files and the engine, but no command line.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from amsam_cli import models
from amsam_cli.adapter import Adapter, Backbone
from amsam_cli.errors import AdapterError, AmsamError, InputError, ResourceError
from amsam_cli.io import Case, read_grid, read_volume, write_labels, write_probabilities
from amsam_cli.io.dicom.codes import LabelCode
from amsam_cli.io.dicom.writer import Author
from amsam_cli.io.formats import PROBABILITIES, suffix_of
from amsam_cli.io.gate import check_grid, check_scan
from amsam_cli.models.base import MemoryModel, OnStep, PromptableModel, silent
from amsam_cli.preprocess import intensity_limits
from amsam_cli.report import RunRecord, Stages, peak_memory_mib, read_json, sha256_of, write_json, write_mask_page
from amsam_cli.report.files import finite
from amsam_cli.review import picture_of_mask, write_png
from amsam_cli.segmentation import Mode, Plan, Segmentation, segment
from amsam_cli.version import __version__
from amsam_cli.volume import LabelMap, Volume

log = logging.getLogger(__name__)

Format = Literal["nifti", "nrrd", "mha", "seg", "png"]
FORMATS: Mapping[str, str] = {"nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha", "seg": ".dcm", "png": ".png"}
WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha", ".dcm", ".png")

DOUBTFUL = 0.8
"""Below this confidence a slice within a label's extent is listed for review."""


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """An adapter with its models, loaded once for a whole batch.

    Attributes:
        adapter: what was learned.
        adapter_sha256: its hash.
        model: decodes slices.
        memory_model: carries masks through a volume; often the same.
    """

    adapter: Adapter
    adapter_sha256: str
    model: PromptableModel
    memory_model: MemoryModel

    @classmethod
    def load(
        cls, folder: Path, *, device: str = "auto", model: str | None = None, memory_model: str | None = None
    ) -> Engine:
        """Return the engine of the adapter in `folder`.

        Args:
            folder: as `amsam adapt` left it.
            device: as `models.load` takes it.
            model: NAME=checkpoint.pt where the adapter's model is not in the cache; None loads it by its name.
            memory_model: the same for the memory model.

        Raises:
            AdapterError: no adapter there, or one made for another model.
            InputError: there is no such device or model.
            WeightsError: the weights are missing or damaged.
        """
        adapter = Adapter.load(folder)
        slices = _load(adapter.backbone, model, device)
        same = adapter.memory_backbone == adapter.backbone and memory_model is None
        memory = slices if same else _load(adapter.memory_backbone, memory_model, device)
        if not isinstance(memory, MemoryModel):
            raise AdapterError(
                f"The memory model of '{folder}', {memory.name}, has no memory.", "Run amsam adapt again."
            )
        return cls(adapter, adapter.sha256, slices, memory)


def _load(backbone: Backbone, spec: str | None, device: str) -> PromptableModel:
    model = models.load(spec or backbone.name, device, image_size=backbone.image_size)
    if model.name != backbone.name:
        raise AdapterError(
            f"The adapter was made for {backbone.name}, not for {model.name}.",
            f"Give its weights as {backbone.name}=FILE, or run amsam adapt again.",
        )
    return model


@dataclass(frozen=True, slots=True)
class Options:
    """What to leave beside the masks, and how.

    Attributes:
        seed: of every random choice.
        preview: whether to draw a picture of each mask.
        report: whether to write a page about each mask.
        statistics: whether to measure volume and intensity of each label.
        overwrite: whether to do finished cases again.
        argv: the command line, for the record.
        probabilities: whether to write the probability of each label at each voxel.
        mode: which ways of looking take part.
        max_memory_gib: the working set past which features go to disk; None decides by what is free.
        codes: label name -> what it is called in DICOM; a name that is missing is coded as plain text.
    """

    seed: int = 0
    preview: bool = False
    report: bool = False
    statistics: bool = False
    overwrite: bool = False
    argv: Sequence[str] = ()
    probabilities: bool = False
    codes: Mapping[str, LabelCode] = field(default_factory=dict)
    mode: Mode = "full"
    max_memory_gib: float | None = None

    @property
    def plan(self) -> Plan:
        """How to segment."""
        return Plan.of(self.mode, probabilities=self.probabilities, max_memory_gib=self.max_memory_gib)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where masks go.

    Attributes:
        path: a file, or the folder of a result per case.
        is_folder: which of both.
        format: of the masks in a folder; None writes volumes as NIfTI and pictures as PNG.
    """

    path: Path
    is_folder: bool
    format: Format | None = None

    @classmethod
    def parse(cls, path: Path, *, format: Format | None, is_batch: bool) -> Destination:  # noqa: A002 - as the option
        """Return what an OUTPUT means: a file by its suffix, a folder if it has none.

        Raises:
            InputError: a suffix that amsam does not write or that contradicts `format`, or one file for many scans.
        """
        suffix = suffix_of(path)
        if path.is_dir() or not (suffix or path.suffix):
            return cls(path, is_folder=True, format=format)
        if suffix not in WRITABLE:
            known = f"{', '.join(WRITABLE)}, or a folder name without suffix"
            raise InputError(f"'{path}' is of no format that amsam writes.", f"Use {known}.")
        if is_batch:
            raise InputError(f"A folder of scans cannot be written to one file '{path}'.", "Give a folder as output.")
        if format and suffix not in (FORMATS[format], ".nii" if format == "nifti" else ""):
            raise InputError(f"--format {format} contradicts the output '{path}'.", "Leave --format out.")
        return cls(path, is_folder=False)

    def mask_of(self, case: Case) -> Path:
        """Return the mask file of `case`.

        Raises:
            InputError: it would replace the scan itself, or the scan cannot be read.
        """
        path = self.path / f"{case.name}{self._suffix_for(case)}" if self.is_folder else self.path
        if path.resolve() == case.path.resolve():
            raise InputError(f"The mask '{path}' would replace its own scan.", "Give another output.")
        return path

    def _suffix_for(self, case: Case) -> str:
        if self.format:
            return FORMATS[self.format]
        return ".png" if read_grid(case.path, series=case.series).unit == "px" else ".nii.gz"


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of one case.

    Attributes:
        case: the case.
        status: "done", "skipped" as it was finished already, or "failed".
        mask: its mask; None if it failed.
        record: how the mask was made; None unless done.
        error: why it failed.
    """

    case: Case
    status: Literal["done", "skipped", "failed"]
    mask: Path | None = None
    record: RunRecord | None = None
    error: AmsamError | None = None


def run(
    cases: Sequence[Case],
    engine: Engine,
    destination: Destination,
    options: Options,
    *,
    isolate: bool = True,
    on_step: OnStep | None = None,
) -> Iterator[Outcome]:
    """Segment cases one after the other and yield what became of each.

    Args:
        cases: from `find_cases`.
        engine: adapter and models.
        destination: where masks go.
        options: what to leave beside them.
        isolate: whether a failing case is reported and the next one taken; else its error is raised.
        on_step: told about progress; stage "cases" counts cases where there are several.

    Raises:
        AmsamError: a case failed and `isolate` is False.
    """
    report = on_step or silent
    for number, case in enumerate(cases):
        if len(cases) > 1:
            report("cases", number, len(cases))
        yield (
            _isolated(case, engine, destination, options, report)
            if isolate
            else _outcome(case, engine, destination, options, report)
        )
    if len(cases) > 1:
        report("cases", len(cases), len(cases))


def _isolated(case: Case, engine: Engine, destination: Destination, options: Options, report: OnStep) -> Outcome:
    """Return the outcome of a case, also where it fails: the others must not suffer."""
    try:
        return _outcome(case, engine, destination, options, report)
    except AmsamError as err:
        return Outcome(case, "failed", error=err)
    except Exception as err:  # one case in a thousand must not lose the rest of a night's run
        log.error("case %s met a bug in amsam", case.name, exc_info=True)
        bug = AmsamError(
            f"'{case.path.name}' met a bug in amsam: {type(err).__name__}: {err}", "Report it, with the log."
        )
        return Outcome(case, "failed", error=bug)


def _outcome(case: Case, engine: Engine, destination: Destination, options: Options, report: OnStep) -> Outcome:
    mask = destination.mask_of(case)
    made = _Expected(case, mask, engine, options)
    if not options.overwrite and made.is_finished():
        return Outcome(case, "skipped", mask)
    return Outcome(case, "done", mask, segment_case(case, engine, mask, options, on_step=report))


def segment_case(
    case: Case, engine: Engine, mask: Path, options: Options, *, on_step: OnStep | None = None
) -> RunRecord:
    """Segment one scan, write its mask and what belongs beside it, and return the record.

    The record is written last: a mask without one is not finished.

    Raises:
        InputError: the scan cannot be used, or the place not be written to.
        ResourceError: memory or disk ran out.
    """
    stages = Stages()
    with stages.measure("read"), _heard() as said:
        volume = read_volume(case.path, engine.adapter.recipe.plane, series=case.series)
        _check_fits(volume, mask)
        odd = [*said, *_check_scan(case, volume)]
    with stages.measure("segment"):
        found = _segment(case, volume, engine, options, on_step)
    with stages.measure("write"):
        kept = _keep_changed(mask, options)
        _write(found, mask, volume, engine, options)
        picture = _picture(volume, found, engine.adapter) if options.preview or options.report else b""
        if options.preview:
            write_png(picture, preview_of(mask))
    made = _Expected(case, mask, engine, options)
    record = _record(made, volume, found, seconds=stages.seconds, warnings=(*odd, *found.warnings, *kept))
    if options.report:
        write_mask_page(record, page_of(mask), title=mask.name, picture=picture)
    write_json(record.to_json(), record_of(mask))
    return record


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Give the warnings that reading logs, for the record; they are said from there."""
    logger, said = logging.getLogger("amsam_cli.io"), list[str]()
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(listener)
    was, logger.propagate = logger.propagate, False
    try:
        yield said
    finally:
        logger.propagate = was
        logger.removeHandler(listener)


def record_of(mask: Path) -> Path:
    """Return where the record of a mask is.

    >>> record_of(Path("out/mask.nii.gz")).name
    'mask.nii.gz.json'
    """
    return mask.with_name(f"{mask.name}.json")


def preview_of(mask: Path) -> Path:
    """Return where the preview of a mask is."""
    return mask.with_name(f"{mask.name}.preview.png")


def page_of(mask: Path) -> Path:
    """Return where the page about a mask is."""
    return mask.with_name(f"{mask.name}.html")


def probabilities_of(mask: Path) -> Path:
    """Return where the probabilities beside a mask are; those of a picture are a volume of one slice.

    >>> probabilities_of(Path("mask.nii.gz")).name, probabilities_of(Path("x.png")).name
    ('mask.nii.gz.probabilities.nii.gz', 'x.png.probabilities.nii.gz')
    """
    suffix = suffix_of(mask)
    return mask.with_name(f"{mask.name}{PROBABILITIES}{'.nii.gz' if suffix == '.png' else suffix}")


def _write(found: Segmentation, mask: Path, volume: Volume, engine: Engine, options: Options) -> None:
    """Write the mask, and the probabilities if they were asked for."""
    source, author = volume.source, Author(engine.adapter_sha256, options.codes)
    assert source is not None  # read_volume always says where from
    write_labels(found.labels, mask, like=source, author=author)
    if options.probabilities:
        names = found.labels.names
        write_probabilities(found.probabilities, names, probabilities_of(mask), like=source, author=author)


def _picture(volume: Volume, found: Segmentation, adapter: Adapter) -> bytes:
    limits, keys = intensity_limits(volume, adapter.recipe), chain(*found.seeds.values())
    return picture_of_mask(volume, found.labels, limits=limits, key_slices=keys, prompts=found.prompts)


def _check_scan(case: Case, volume: Volume) -> list[str]:
    """Return what is odd about a scan, having refused one that shows nothing."""
    check_scan(case.path.name, volume)
    return [str(finding) for finding in check_grid(case.path.name, volume.geometry, axis=0)]


def _check_fits(volume: Volume, mask: Path) -> None:
    if suffix_of(mask) == ".dcm" and (volume.source is None or volume.source.format != "dicom"):
        raise InputError(
            f"'{mask}' as DICOM SEG needs a DICOM series, but the scan is none.",
            "Use .nii.gz, or give the DICOM folder as input.",
        )
    if suffix_of(mask) == ".png" and volume.depth > 1:
        raise InputError(f"'{mask}' cannot hold a volume of {volume.depth} slices.", "Use .nii.gz for volumes.")


def _segment(case: Case, volume: Volume, engine: Engine, options: Options, on_step: OnStep | None) -> Segmentation:
    torch.manual_seed(options.seed)
    try:
        return segment(
            volume,
            engine.adapter,
            engine.model,
            memory_model=engine.memory_model,
            plan=options.plan,
            on_step=on_step,
        )
    except (MemoryError, torch.OutOfMemoryError) as err:
        where = device_name(engine.model.device)
        raise ResourceError(
            f"'{case.path.name}' does not fit into the memory of {where}.", "Try --device cpu."
        ) from err


def _keep_changed(mask: Path, options: Options) -> tuple[str, ...]:
    """Set aside a mask that is not as amsam wrote it, so that nobody's corrections are lost; say so."""
    if options.overwrite or not mask.is_file() or _recorded(mask).get("outputs") == {mask.name: sha256_of(mask)}:
        return ()
    aside = mask.with_name(f"{mask.name}.old")
    mask.replace(aside)
    return (f"'{mask.name}' was there and not as amsam had written it; it is kept as '{aside.name}'.",)


def _recorded(mask: Path) -> dict[str, Any]:
    """Return the record beside a mask, or nothing if there is none that can be read."""
    path = record_of(mask)
    try:
        return read_json(path) if path.is_file() else {}
    except InputError:
        return {}


@dataclass(frozen=True, slots=True, eq=False)
class _Expected:
    """What a finished result of a case says of itself."""

    case: Case
    mask: Path
    engine: Engine
    options: Options

    def facts(self) -> dict[str, Any]:
        """Return the fields of a record that decide whether the result would be the same again."""
        return {
            "inputs": {self.case.path.name: sha256_of(self.case.path)},
            "outputs": {self.mask.name: sha256_of(self.mask)},
            "adapter_sha256": self.engine.adapter_sha256,
            "settings": {"seed": self.options.seed, "mode": self.options.mode, **self._settings_of_dicom()},
        }

    def _settings_of_dicom(self) -> dict[str, Any]:
        """Return which series was chosen, and for a SEG what its labels are coded as."""
        series = {"series": self.case.series} if self.case.series else {}
        codes = {name: asdict(code) for name, code in self.options.codes.items()}
        return {**series, **({"codes": finite(codes)} if codes and suffix_of(self.mask) == ".dcm" else {})}

    def is_finished(self) -> bool:
        """Return whether the mask is there, from the same scan, adapter and settings, with all that is asked for."""
        recorded = _recorded(self.mask)
        if not recorded or not self.mask.is_file():
            return False
        if self.options.preview and not preview_of(self.mask).is_file():
            return False
        if self.options.report and not page_of(self.mask).is_file():
            return False
        if self.options.statistics and not recorded.get("statistics"):
            return False
        if self.options.probabilities and not probabilities_of(self.mask).is_file():
            return False
        return all(recorded.get(key) == value for key, value in self.facts().items())


def _record(
    made: _Expected, volume: Volume, found: Segmentation, *, seconds: Mapping[str, float], warnings: Sequence[str]
) -> RunRecord:
    engine, options = made.engine, made.options
    names = found.labels.names
    confidence = {value: _as_stored(row, volume) for value, row in found.confidence.items()}
    extent = {value: _as_stored(_extent(found.labels.mask(value)), volume) for value in confidence}
    doubtful = {value: ranges(extent[value] & (row < DOUBTFUL)) for value, row in confidence.items()}
    return RunRecord(
        version=__version__,
        argv=options.argv,
        seed=options.seed,
        device=device_name(engine.model.device),
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
        peak_memory_mib=round(peak_memory_mib(), 1),
        warnings=tuple(warnings),
        model=engine.adapter.backbone.name,
        model_sha256=engine.adapter.backbone.sha256,
        confidence={names[value]: [round(float(x), 4) for x in row] for value, row in confidence.items()},
        expected_dice={names[value]: round(dice, 4) for value, dice in found.expected_dice.items()},
        needs_review={names[value]: runs for value, runs in doubtful.items() if runs},
        statistics=measure(volume, found.labels) if options.statistics else {},
        **made.facts(),
    )


def _as_stored(row: NDArray[Any], volume: Volume) -> NDArray[Any]:
    """Return a value for each slice in the file's own order."""
    return row[::-1] if volume.source and volume.source.order.flips[0] else row


def _extent(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which slices lie between the first and the last that a mask (D, H, W) is on, both included: (D,)."""
    shown = np.flatnonzero(mask.any(axis=(1, 2)))
    within = np.zeros(len(mask), dtype=bool)
    if shown.size:
        within[shown[0] : shown[-1] + 1] = True
    return within


def ranges(marked: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (first, last) of every run of marked slices, both included.

    >>> ranges(np.array([True, True, False, True]))
    [(0, 1), (3, 3)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    return [(int(first), int(last) - 1) for first, last in edges.reshape(-1, 2)]


def measure(volume: Volume, labels: LabelMap) -> dict[str, dict[str, float]]:
    """Return each label's volume in ml (of a picture its area in pixels) and mean intensity in raw units.

    A label that was not found has size 0 and no intensity.
    """
    picture = volume.is_picture
    size_name, unit = ("area_px", 1.0) if picture else ("volume_ml", labels.geometry.voxel_volume_ml)
    found = {}
    for value, name in sorted(labels.names.items()):
        mask = labels.mask(value)
        found[name] = {size_name: round(int(mask.sum()) * unit, 4)}
        if mask.any():
            found[name]["mean_intensity"] = round(float(volume.data[:, mask].mean()), 4)
    return found


def device_name(device: torch.device) -> str:
    """Return a device in words, such as "cpu" or "cuda:0 NVIDIA A100"."""
    if device.type != "cuda":
        return str(device)
    index = device.index if device.index is not None else torch.cuda.current_device()
    return f"cuda:{index} {torch.cuda.get_device_name(index)}"


def part_of(cases: Sequence[Case], *, count: int, index: int) -> list[Case]:
    """Return every `count`-th case from case `index` on: what one of `count` processes does.

    Raises:
        InputError: there is no part of that number, or no case in it.
    """
    if not 0 <= index < count:
        raise InputError(f"--part-id {index} is none of {count} parts.", f"Count from 0 to {count - 1}.")
    if index >= len(cases):
        raise InputError(
            f"Part {index} of {count} has nothing to do: there are {len(cases)} cases.", "Use fewer parts."
        )
    return list(cases[index::count])
