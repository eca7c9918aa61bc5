from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from amsam_cli.batch import (
    Destination,
    Engine,
    Options,
    Outcome,
    measure,
    page_of,
    part_of,
    preview_of,
    record_of,
    run,
)
from amsam_cli.errors import AdapterError, InputError, ResourceError
from amsam_cli.io import Case, find_cases, read_volume
from amsam_cli.models.base import OnStep
from amsam_cli.report import sha256_of
from amsam_cli.segmentation import Segmentation
from amsam_cli.volume import Geometry, LabelMap, Plane, Volume
from tests.conftest import save_balls, save_nifti, save_picture
from tests.toy import ToyModel


@pytest.fixture
def engine(adapter_folder: Path) -> Engine:
    return Engine.load(adapter_folder)


@pytest.fixture
def scan(scans_folder: Path) -> Path:
    return scans_folder / "images" / "case_7.nii.gz"


def segmented(scan: Path, engine: Engine, output: Path, **options: object) -> Outcome:
    """Return the outcome of one scan, its errors raised."""
    destination = Destination.parse(output, format=None, is_batch=False)
    return next(run(find_cases(scan), engine, destination, Options(**options), isolate=False))  # type: ignore[arg-type]


def read_record(mask: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads(record_of(mask).read_text())
    return content


# Where masks go.


@pytest.mark.parametrize("name", ["m.nii.gz", "m.nii", "m.nrrd", "m.mha", "m.dcm", "m.png"])
def test_destination_is_a_file_when_it_has_a_suffix_that_is_written(name):
    assert not Destination.parse(Path(name), format=None, is_batch=False).is_folder


def test_destination_is_a_folder_without_suffix_or_when_the_folder_is_there(tmp_path):
    (tmp_path / "v1.2").mkdir()

    assert Destination.parse(Path("masks"), format=None, is_batch=True).is_folder
    assert Destination.parse(tmp_path / "v1.2", format=None, is_batch=True).is_folder


@pytest.mark.parametrize(
    ("name", "mask_format", "is_batch"),
    [("m.xyz", None, False), ("m.nii.gz", None, True), ("m.nrrd", "nifti", False)],
    ids=["unknown", "many-into-one", "contradiction"],
)
def test_destination_refuses(name, mask_format, is_batch):
    with pytest.raises(InputError):
        Destination.parse(Path(name), format=mask_format, is_batch=is_batch)


@pytest.mark.parametrize(
    ("mask_format", "names"),
    [(None, ["p.png", "v.nii.gz"]), ("nrrd", ["p.nrrd", "v.nrrd"]), ("mha", ["p.mha", "v.mha"])],
)
def test_destination_names_masks_in_a_folder_like_their_cases(tmp_path, mask_format, names):
    save_picture(tmp_path, "p")
    save_nifti(tmp_path / "images" / "v.nii.gz", np.zeros((2, 4, 4), dtype=np.uint8))
    destination = Destination.parse(tmp_path / "out", format=mask_format, is_batch=True)

    masks = [destination.mask_of(case).name for case in find_cases(tmp_path / "images")]

    assert masks == names


def test_destination_never_replaces_the_scan(scan):
    destination = Destination.parse(scan.parent, format=None, is_batch=True)

    with pytest.raises(InputError, match="replace its own scan"):
        destination.mask_of(Case(scan, "case_7"))


# What a run leaves.


def test_run_leaves_a_record_that_repeats_the_result(engine, scan, tmp_path):
    mask = tmp_path / "out" / "mask.nii.gz"

    outcome = segmented(scan, engine, mask, seed=3)

    record = read_record(mask)
    assert outcome.status == "done"
    assert record["inputs"] == {"case_7.nii.gz": sha256_of(scan)}
    assert record["outputs"] == {"mask.nii.gz": sha256_of(mask)}
    assert record["adapter_sha256"] == engine.adapter.sha256
    assert record["model"] == "toy"
    assert record["settings"] == {"seed": 3, "mode": "full"}
    assert set(record["seconds"]) == {"read", "segment", "write"}
    assert record["peak_memory_mib"] > 0
    assert {path.name for path in mask.parent.iterdir()} == {"mask.nii.gz", "mask.nii.gz.json"}


def test_run_gives_confidence_in_the_files_own_order(engine, scan, tmp_path, monkeypatch):
    rising = np.linspace(0, 1.0, 9, dtype=np.float32)

    def found_everywhere(volume: Volume, *args: object, **kwargs: object) -> Segmentation:
        data = np.ones(volume.geometry.shape, dtype=np.uint16)
        return Segmentation(LabelMap(data, volume.geometry, {1: "ball"}), {1: rising})

    monkeypatch.setattr("amsam_cli.batch.segment", found_everywhere)
    image = nib.load(scan)
    flipped = image.affine @ [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 8], [0, 0, 0, 1]]
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:, :, ::-1], flipped), scan)

    segmented(scan, engine, tmp_path / "mask.nii.gz")

    record = read_record(tmp_path / "mask.nii.gz")
    assert record["confidence"]["ball"] == pytest.approx(rising[::-1].tolist(), abs=1e-4)
    assert record["needs_review"] == {"ball": [[2, 8]]}  # 0.75 down to 0.0


def test_run_lists_doubtful_slices_and_gaps_within_a_label_for_review(engine, scan, tmp_path, monkeypatch):
    def found_in_two_parts(volume: Volume, *args: object, **kwargs: object) -> Segmentation:
        data = np.zeros(volume.geometry.shape, dtype=np.uint16)
        data[[2, 3, 6], 10:20, 10:20] = 1
        doubt = np.full(9, 0.4, dtype=np.float32)
        return Segmentation(LabelMap(data, volume.geometry, {1: "ball"}), {1: doubt})

    monkeypatch.setattr("amsam_cli.batch.segment", found_in_two_parts)

    segmented(scan, engine, tmp_path / "mask.nii.gz")

    assert read_record(tmp_path / "mask.nii.gz")["needs_review"] == {"ball": [[2, 6]]}


def test_run_writes_a_page_that_needs_nothing_beside_it_when_asked(engine, scan, tmp_path):
    segmented(scan, engine, tmp_path / "mask.nii.gz", report=True, statistics=True)

    page = page_of(tmp_path / "mask.nii.gz").read_text()
    assert "data:image/png;base64," in page
    assert 'src="http' not in page
    assert "volume ml" in page
    assert all(name in page for name in ("label_1", "label_2"))
    assert page.count("<rect") == 18  # two labels on nine slices
    assert str(tmp_path) not in page


def test_run_draws_a_preview_when_asked(engine, scan, tmp_path):
    segmented(scan, engine, tmp_path / "mask.nii.gz", preview=True)

    assert preview_of(tmp_path / "mask.nii.gz").read_bytes().startswith(b"\x89PNG")


def test_run_segments_pictures_to_png(engine, tmp_path):
    save_picture(tmp_path, "p")

    outcome = segmented(tmp_path / "images" / "p.png", engine, tmp_path / "masks", statistics=True, preview=True)

    assert outcome.mask == tmp_path / "masks" / "p.png"
    assert {path.name for path in (tmp_path / "masks").iterdir()} == {"p.png", "p.png.json", "p.png.preview.png"}
    assert set(outcome.record.statistics) == {"label_1", "label_2"}


def test_run_refuses_a_picture_for_a_volume_before_the_work(engine, scan, tmp_path, monkeypatch):
    monkeypatch.setattr("amsam_cli.batch.segment", lambda *args, **kwargs: pytest.fail("worked for nothing"))

    with pytest.raises(InputError, match="9 slices"):
        segmented(scan, engine, tmp_path / "mask.png")


def test_run_says_when_memory_ran_out(engine, scan, tmp_path, monkeypatch):
    def exhausted(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr("amsam_cli.batch.segment", exhausted)

    with pytest.raises(ResourceError, match=r"'case_7.nii.gz' does not fit into the memory of cpu"):
        segmented(scan, engine, tmp_path / "mask.nii.gz")


def test_measure_gives_volume_and_mean_intensity():
    geometry = Geometry((1, 2, 2), np.diag([10.0, 10.0, 10.0, 1.0]))  # a voxel is one millilitre
    volume = Volume(np.array([[[[1, 3], [5, 7]]]], dtype=np.float32), geometry, (1, 7))
    labels = LabelMap(np.array([[[1, 1], [0, 0]]], dtype=np.uint16), geometry, {1: "liver", 2: "spleen"})

    assert measure(volume, labels) == {"liver": {"volume_ml": 2.0, "mean_intensity": 2.0}, "spleen": {"volume_ml": 0.0}}


def test_measure_gives_the_area_of_a_picture_in_pixels():
    geometry = Geometry.of_picture(1, 2)
    volume = Volume(np.full((3, 1, 1, 2), 9, dtype=np.float32), geometry, (9, 9))
    labels = LabelMap(np.array([[[1, 0]]], dtype=np.uint16), geometry, {1: "skin"})

    assert measure(volume, labels) == {"skin": {"area_px": 1, "mean_intensity": 9.0}}


# Finished cases.


def test_run_skips_a_finished_case(engine, scan, tmp_path):
    segmented(scan, engine, tmp_path / "mask.nii.gz")

    assert segmented(scan, engine, tmp_path / "mask.nii.gz").status == "skipped"


def test_run_does_a_finished_case_again_when_told_to(engine, scan, tmp_path):
    segmented(scan, engine, tmp_path / "mask.nii.gz")

    assert segmented(scan, engine, tmp_path / "mask.nii.gz", overwrite=True).status == "done"


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"preview": True}, {"report": True}, {"statistics": True}], ids=lambda c: next(iter(c))
)
def test_run_does_a_case_again_when_more_or_something_else_is_asked_for(engine, scan, tmp_path, changes):
    segmented(scan, engine, tmp_path / "mask.nii.gz")

    assert segmented(scan, engine, tmp_path / "mask.nii.gz", **changes).status == "done"
    assert segmented(scan, engine, tmp_path / "mask.nii.gz", **changes).status == "skipped"


def test_run_does_a_case_again_when_the_scan_is_another(engine, scan, tmp_path):
    segmented(scan, engine, tmp_path / "mask.nii.gz")
    scan.write_bytes((scan.parent / "case_8.nii.gz").read_bytes())

    assert segmented(scan, engine, tmp_path / "mask.nii.gz").status == "done"


def test_run_does_a_case_again_when_the_adapter_is_another(engine, scan, tmp_path):
    segmented(scan, engine, tmp_path / "mask.nii.gz")

    assert segmented(scan, replace(engine, adapter_sha256="other"), tmp_path / "mask.nii.gz").status == "done"


def test_run_does_a_case_again_when_its_record_is_gone_or_damaged(engine, scan, tmp_path):
    mask = tmp_path / "mask.nii.gz"
    segmented(scan, engine, mask)
    record_of(mask).write_text("{")

    assert segmented(scan, engine, mask).status == "done"
    record_of(mask).unlink()
    assert segmented(scan, engine, mask).status == "done"


def test_run_keeps_a_corrected_mask_aside(engine, scan, tmp_path):
    mask = tmp_path / "mask.nii.gz"
    segmented(scan, engine, mask)
    mask.write_bytes(b"corrected by hand")

    outcome = segmented(scan, engine, mask)

    assert outcome.status == "done"
    assert (tmp_path / "mask.nii.gz.old").read_bytes() == b"corrected by hand"
    assert any("kept as 'mask.nii.gz.old'" in warning for warning in read_record(mask)["warnings"])


# Many cases.


def broken_and_fine(folder: Path) -> list[Case]:
    save_balls(folder, 7)
    (folder / "images" / "a_broken.nii.gz").write_bytes(b"no scan")
    return find_cases(folder / "images")


def test_run_goes_on_after_a_bad_case(engine, tmp_path):
    cases = broken_and_fine(tmp_path / "in")

    outcomes = list(run(cases, engine, Destination(tmp_path / "out", is_folder=True), Options()))

    assert [(outcome.case.name, outcome.status) for outcome in outcomes] == [("a_broken", "failed"), ("case_7", "done")]
    assert isinstance(outcomes[0].error, InputError)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"case_7.nii.gz", "case_7.nii.gz.json"}


def test_run_goes_on_after_a_bug_and_logs_it(engine, tmp_path, monkeypatch, caplog):
    def buggy(path: Path, plane: Plane | None, **options: object) -> Volume:
        return read_volume(path, plane) if path.name == "case_8.nii.gz" else 1 / 0

    monkeypatch.setattr("amsam_cli.batch.read_volume", buggy)
    for seed in (7, 8):
        save_balls(tmp_path / "in", seed)
    cases = find_cases(tmp_path / "in" / "images")

    outcomes = list(run(cases, engine, Destination(tmp_path / "out", is_folder=True), Options()))

    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert "met a bug in amsam: ZeroDivisionError: division" in outcomes[0].error.message
    assert "Traceback" in caplog.text


def test_run_raises_when_it_must_not_isolate(engine, tmp_path):
    cases = broken_and_fine(tmp_path / "in")

    with pytest.raises(InputError):
        list(run(cases, engine, Destination(tmp_path / "out", is_folder=True), Options(), isolate=False))


def test_run_counts_cases_as_they_are_done(engine, scans_folder, tmp_path):
    steps: list[tuple[str, int, int]] = []
    count: OnStep = lambda *step: steps.append(step)  # noqa: E731
    cases = find_cases(scans_folder / "images")

    list(run(cases, engine, Destination(tmp_path / "out", is_folder=True), Options(), on_step=count))

    assert [step[1:] for step in steps if step[0] == "cases"] == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(("count", "index", "names"), [(1, 0, "abcde"), (2, 0, "ace"), (2, 1, "bd"), (5, 4, "e")])
def test_part_of_takes_every_nth_case(count, index, names):
    cases = [Case(Path(name), name) for name in "abcde"]

    assert "".join(case.name for case in part_of(cases, count=count, index=index)) == names


@pytest.mark.parametrize(("count", "index"), [(2, 2), (9, 6)], ids=["no-such-part", "empty-part"])
def test_part_of_refuses(count, index):
    with pytest.raises(InputError):
        part_of([Case(Path(name), name) for name in "abcde"], count=count, index=index)


# The engine.


def test_engine_loads_one_model_when_it_is_its_own_memory(engine):
    assert engine.memory_model is engine.model


def test_engine_refuses_another_model(adapter_folder, monkeypatch):
    def load(spec: str, device: str, *, image_size: int) -> ToyModel:
        model = ToyModel(image_size)
        model.name = spec
        return model

    monkeypatch.setattr("amsam_cli.models.load", load)

    with pytest.raises(AdapterError, match="made for toy, not for medsam2"):
        Engine.load(adapter_folder, model="medsam2")
