from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import typer

from amsam_cli import cli
from amsam_cli.errors import AdapterError, AmsamError, GeometryError, InputError, ResourceError, WeightsError
from tests.conftest import save_balls, save_nifti
from tests.scans import ball_scan

COMMANDS = [
    "adapt",
    "segment",
    "evaluate",
    "demo",
    "models",
    "models list",
    "models pull",
    "models verify",
    "info",
    "pretrain",
    "bench fewshot",
]


def assert_two_lines(err: str) -> None:
    """Assert that stderr is a known failure: what and where, then the hint."""
    lines = err.rstrip("\n").split("\n")
    assert len(lines) == 2
    assert lines[1].startswith("Hint: ")
    assert "Traceback" not in err


# The door: help, version, exit codes.


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["adapt", "--help"]], ids=" ".join)
def test_help_and_version_load_no_torch(arguments):
    code = f"""
import sys
from amsam_cli.cli import main
code = main({arguments!r})
sys.exit(code or "torch" in sys.modules or "monai" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_the_common_options(amsam, command):
    ran = amsam(*command.split(), "--help")

    assert ran.code == 0
    if command != "models":
        assert all(option in ran.out for option in ("--verbose", "--quiet", "--json"))


def test_version_is_printed(amsam):
    ran = amsam("--version")

    assert (ran.code, ran.out) == (0, "amsam 0.1.0\n")


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["segment"], ["adapt", "labels", "--shots", "0"]],
    ids=lambda a: " ".join(a) or "none",
)
def test_wrong_usage_is_exit_2(amsam, arguments):
    assert amsam(*arguments).code == 2


@pytest.mark.parametrize(
    ("kind", "code"),
    [(InputError, 2), (GeometryError, 2), (AdapterError, 2), (WeightsError, 1), (ResourceError, 1), (AmsamError, 1)],
)
def test_known_failures_have_their_exit_code(kind, code):
    assert cli.exit_code_of(kind("x")) == code


@pytest.fixture
def failing(monkeypatch):
    """Return a function that makes `amsam demo` raise."""

    def fail(err: BaseException) -> None:
        def run_demo(*args: object, **kwargs: object) -> None:
            raise err

        monkeypatch.setattr("amsam_cli.bench.demo.run_demo", run_demo)

    return fail


def test_known_failure_is_two_lines_with_its_brackets(amsam, failing):
    failing(InputError("'[bold]a[/bold].nii'\nis [1, 2]: " + "long " * 60, "try [this]"))

    ran = amsam("demo")

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert "'[bold]a[/bold].nii' is [1, 2]" in ran.err
    assert "Hint: try [this]" in ran.err
    assert ran.out == ""


def test_known_failure_has_a_hint_when_it_came_with_none(amsam, failing):
    failing(InputError("no"))

    assert_two_lines(amsam("demo").err)


def test_bug_is_exit_70_with_traceback_and_where_to_report(amsam, failing):
    failing(ZeroDivisionError("oops"))

    ran = amsam("demo")

    assert ran.code == 70
    assert "ZeroDivisionError: oops" in ran.err
    assert "This is a bug in amsam" in ran.err


def test_interrupt_is_no_bug(amsam, failing):
    failing(KeyboardInterrupt())

    ran = amsam("demo")

    assert ran.code == 130  # as shells count a process that SIGINT ended
    assert "Traceback" not in ran.err


def test_progress_is_drawn_on_a_terminal_only(capsys, monkeypatch):
    screen = cli.Screen(verbose=False, quiet=False, as_json=False)
    with screen.progress() as on_step:
        on_step("encode", 1, 2)
    piped = capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    with screen.progress() as on_step:
        on_step("encode", 1, 2)

    assert piped == ""
    assert "encode" in capsys.readouterr().err


def test_quiet_silences_warnings(capsys):
    cli.Screen(verbose=False, quiet=True, as_json=False).warn(["beware"])
    cli.Screen(verbose=False, quiet=False, as_json=False).warn(["look [out]"])

    assert capsys.readouterr().err == "Warning: look [out]\n"


# adapt


def test_adapt_leaves_an_adapter_and_says_what_it_learned(amsam, toy, shots_folder):
    ran = amsam("adapt", "--shots", 3, shots_folder, "--steps", 2)

    assert ran.code == 0, ran.err
    assert "case_0.nii.gz:4" in ran.out
    assert "Forecast Dice" in ran.out
    assert "decoder LoRA" in ran.out
    assert {path.name for path in Path("amsam_adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "amsam.json",
        "memories.safetensors",
        "run.json",
    }


def test_adapt_prints_no_forecast_when_none_was_made(amsam, toy, shots_folder):
    ran = amsam("adapt", shots_folder, "--steps", 0, "--no-forecast")

    assert ran.code == 0
    assert "Forecast" not in ran.out
    assert "none (training-free)" in ran.out


def test_adapt_json_is_one_object(amsam, toy, shots_folder):
    ran = amsam("adapt", shots_folder, "--steps", 0, "--no-forecast", "--json", "--label", "1=ball", "-k", 2)

    assert ran.json["labels"] == {"1": "ball", "2": "label_2"}
    assert len(ran.json["shots"]) == 2
    assert ran.json["forecast"] is None


def test_adapt_uses_all_slices_with_a_warning_when_there_are_fewer(amsam, toy, shots_folder):
    ran = amsam("adapt", "--shots", 9, shots_folder, "--steps", 0, "--no-forecast", "--json")

    assert len(ran.json["shots"]) == 4
    assert "only 4 slices are annotated" in ran.err


def test_adapt_dry_run_shows_the_choice_and_writes_nothing(amsam, shots_folder):
    before = sorted(Path().rglob("*"))

    ran = amsam("adapt", shots_folder, "-k", 2, "--dry-run")

    assert ran.code == 0
    assert "case_1.nii.gz" in ran.out
    assert "Chosen slice" in ran.out
    assert sorted(Path().rglob("*")) == before


def test_adapt_dry_run_json_lists_pairs_and_shots(amsam, shots_folder):
    ran = amsam("adapt", shots_folder, "-k", 2, "--dry-run", "--json")

    assert [pair["image"] for pair in ran.json["pairs"]] == ["case_0.nii.gz", "case_1.nii.gz"]
    assert ran.json["annotated_slices"] == 4
    assert len(ran.json["shots"]) == 2


def test_adapt_learns_from_exactly_the_listed_slices(amsam, toy, shots_folder, tmp_path):
    (tmp_path / "list.txt").write_text("case_1.nii.gz:5\ncase_0.nii.gz:4\n")

    ran = amsam("adapt", shots_folder, "--slices", "list.txt", "--steps", 0, "--no-forecast", "--json")

    assert ran.json["shots"] == ["case_1.nii.gz:5", "case_0.nii.gz:4"]


def test_adapt_refuses_shots_that_contradict_the_list(amsam, shots_folder, tmp_path):
    (tmp_path / "list.txt").write_text("case_1.nii.gz:5\n")

    ran = amsam("adapt", shots_folder, "--slices", "list.txt", "--shots", 4)

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert amsam("adapt", shots_folder, "--slices", "list.txt", "--shots", 1, "--dry-run").code == 0


@pytest.mark.parametrize("entries", [["liver"], ["x=liver"], ["0=air"], ["1=a", "1=b"], ["1=a", "2=a"], ["1="]])
def test_label_names_must_be_value_and_name(entries):
    with pytest.raises(typer.BadParameter):
        cli._label_names(entries)


def test_label_names_may_hold_an_equals_sign():
    assert cli._label_names(["1=a=b", "7= spleen "]) == {1: "a=b", 7: "spleen"}


def test_adapt_replaces_its_own_folder_but_no_other(amsam, toy, shots_folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    quick = ("adapt", shots_folder, "--steps", 0, "--no-forecast", "-o")

    assert [amsam(*quick, "new").code, amsam(*quick, "new").code, amsam(*quick, "mine").code] == [0, 0, 2]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_info_shows_what_adapt_printed(amsam, adapter_folder):
    ran = amsam("info", adapter_folder, "--json")

    assert ran.json["labels"] == {"1": "label_1", "2": "label_2"}
    assert "case_0.nii.gz:4" in amsam("info", adapter_folder).out


# segment


def test_segment_writes_mask_and_record_on_the_scans_grid(amsam, adapter_folder, scans_folder):
    scan = scans_folder / "images" / "case_7.nii.gz"

    ran = amsam("segment", scan, "-o", "out/mask.nii.gz")

    assert ran.code == 0, ran.err
    mask, image = nib.load("out/mask.nii.gz"), nib.load(scan)
    assert mask.shape == image.shape
    assert np.allclose(mask.affine, image.affine)
    assert {path.name for path in Path("out").iterdir()} == {"mask.nii.gz", "mask.nii.gz.json"}


def test_segment_record_holds_the_command_line_without_folders(amsam, adapter_folder, scans_folder, tmp_path):
    amsam("segment", scans_folder / "images" / "case_7.nii.gz", "-o", tmp_path / "mask.nii.gz")

    record = json.loads((tmp_path / "mask.nii.gz.json").read_text())
    assert record["argv"] == ["amsam", "segment", "case_7.nii.gz", "-o", "mask.nii.gz"]
    assert str(tmp_path) not in (tmp_path / "mask.nii.gz.json").read_text()


def test_segment_finds_the_adapter_in_the_environment(amsam, adapter_folder, scans_folder, monkeypatch):
    moved = adapter_folder.rename(adapter_folder.with_name("elsewhere"))
    monkeypatch.setenv("AMSAM_ADAPTER", str(moved))

    assert amsam("segment", scans_folder / "images" / "case_7.nii.gz", "-o", "mask.nii.gz").code == 0


def test_segment_json_tells_each_case(amsam, adapter_folder, scans_folder):
    first = amsam("segment", scans_folder / "images", "-o", "masks", "--json")
    again = amsam("segment", scans_folder / "images", "-o", "masks", "--json")

    assert [(case["case"], case["status"]) for case in first.json["cases"]] == [("case_7", "done"), ("case_8", "done")]
    assert [case["status"] for case in again.json["cases"]] == ["skipped", "skipped"]
    assert again.code == 0


def test_segment_does_the_rest_of_a_folder_and_exits_1_when_a_case_fails(amsam, adapter_folder, scans_folder):
    (scans_folder / "images" / "broken.nii.gz").write_bytes(b"no scan")

    ran = amsam("segment", scans_folder / "images", "-o", "masks", "-q")

    assert ran.code == 1
    assert_two_lines(ran.err)
    assert "broken.nii.gz" in ran.err
    assert {path.name for path in Path("masks").glob("*.nii.gz")} == {"case_7.nii.gz", "case_8.nii.gz"}


def test_segment_takes_every_nth_case(amsam, adapter_folder, scans_folder):
    ran = amsam("segment", scans_folder / "images", "-o", "m", "--num-parts", 2, "--part-id", 1, "--json")

    assert [case["case"] for case in ran.json["cases"]] == ["case_8"]


@pytest.mark.parametrize("parts", [(2, 2), (9, 5)], ids=["no-such-part", "empty-part"])
def test_segment_with_nothing_to_do_is_exit_2(amsam, adapter_folder, scans_folder, parts):
    ran = amsam("segment", scans_folder / "images", "-o", "m", "--num-parts", parts[0], "--part-id", parts[1])

    assert ran.code == 2
    assert_two_lines(ran.err)


# evaluate


@pytest.fixture
def predictions(scans_folder, tmp_path) -> Path:
    """A folder of predictions that miss label 2 and are right about label 1."""
    for seed in (7, 8):
        labels = ball_scan(seed)[1].data
        save_nifti(tmp_path / "predictions" / f"case_{seed}.nii.gz", np.where(labels == 1, labels, 0).astype(np.uint8))
    return tmp_path / "predictions"


def test_evaluate_prints_the_summary(amsam, predictions, scans_folder):
    ran = amsam("evaluate", predictions, scans_folder / "labels")

    assert ran.code == 0
    assert ran.out.split("\n")[0].split()[:4] == ["Label", "Cases", "Absent", "Dice"]
    assert "1.000" in ran.out


def test_evaluate_json_has_rows_and_summary(amsam, predictions, scans_folder):
    ran = amsam("evaluate", predictions, scans_folder / "labels", "--json")

    dice = {(row["case"], row["label"]): row["value"] for row in ran.json["rows"] if row["metric"] == "dice"}
    assert dice == {
        ("case_7", "label_1"): 1,
        ("case_7", "label_2"): 0,
        ("case_8", "label_1"): 1,
        ("case_8", "label_2"): 0,
    }
    assert {row["metric"] for row in ran.json["summary"]} >= {"dice", "iou", "hd95_mm", "assd_mm", "nsd"}
    assert "NaN" not in ran.out


def test_evaluate_writes_every_report_asked_for(amsam, predictions, scans_folder):
    references = scans_folder / "labels"

    ran = amsam(
        *("evaluate", predictions, references, "--compare", references),
        *("--csv", "r/a.csv", "--json-file", "r/a.json", "--html", "r/a.html"),
    )

    assert ran.code == 0
    assert "Difference" in ran.out
    assert json.loads(Path("r/a.json").read_text())["comparison"]["rows"]
    assert {path.name for path in Path("r").iterdir()} == {"a.csv", "a.json", "a.html"}


# models


def test_models_are_listed(amsam):
    assert [entry["name"] for entry in amsam("models", "list", "--json").json["models"]][:2] == [
        "builtin",
        "sam2.1-tiny",
    ]
    assert "medsam2" in amsam("models").out


def test_models_pull_says_what_to_place_where_when_offline(amsam):
    ran = amsam("models", "pull", "sam2.1-tiny")

    assert ran.code == 1
    assert_two_lines(ran.err)
    assert "sam2.1_hiera_tiny.pt" in ran.err


def test_models_verify_exits_1_when_a_file_is_damaged(amsam, tmp_path):
    fine = amsam("models", "verify").code
    (tmp_path / "amsam_home").mkdir()
    (tmp_path / "amsam_home" / "sam2.1_hiera_tiny.pt").write_bytes(b"cut")

    ran = amsam("models", "verify", "--json")

    assert (fine, ran.code) == (0, 1)
    assert [entry["name"] for entry in ran.json["models"] if entry["state"] == "damaged"] == ["sam2.1-tiny"]


# bench and pretrain: thin, so their engines are replaced


def test_bench_fewshot_passes_its_selection_on(amsam, monkeypatch, tmp_path):
    asked: list[object] = []
    monkeypatch.setattr("amsam_cli.bench.fewshot.run_fewshot", lambda *args, **kwargs: asked.extend(args) or [])

    ran = amsam("bench", "fewshot", "data", "-o", "out", "--set", "a", "--set", "b", "-k", 2, "--method", "unet")

    assert (ran.code, ran.out) == (0, "No results yet.\n")
    selection = asked[2]
    assert (selection.sets, selection.shots, selection.methods) == (["a", "b"], [2], ["unet"])


def test_bench_fewshot_refuses_a_set_without_splits(amsam):
    ran = amsam("bench", "fewshot", "data", "-o", "out", "--set", "nonsense")

    assert ran.code == 2
    assert_two_lines(ran.err)


def test_pretrain_starts_a_run_of_so_many_steps(amsam, monkeypatch):
    started: dict[str, object] = {}

    def start(folder: Path, schedule: object, **options: object) -> SimpleNamespace:
        started.update(folder=folder, schedule=schedule, **options)
        return SimpleNamespace(step=schedule.steps)

    monkeypatch.setattr("amsam_cli.pretrain.training.Run.start", start)
    monkeypatch.setattr("amsam_cli.pretrain.training.pretrain", lambda run, **options: None)

    ran = amsam("pretrain", "-o", "run", "--steps", 7, "--seed", 5, "--json", "-d", "cpu")

    assert ran.json == {"output": "run", "steps": 7}
    assert (started["schedule"].steps, started["schedule"].seed, started["device"]) == (7, 5, "cpu")


def test_pretrain_refuses_weights_that_are_not_there(amsam):
    ran = amsam("pretrain", "-o", "run", "--weights", "none.safetensors")

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert not Path("run").exists()


# Input that cannot be used: two lines, exit 2, nothing half-written.


def truncated(folder: Path) -> Path:
    save_balls(folder, 7)
    path = folder / "images" / "case_7.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    return path


def text_named_nifti(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "notes.nii.gz").write_text("these are no voxels\n" * 50)
    return folder / "notes.nii.gz"


def missing(folder: Path) -> Path:
    return folder / "missing.nii.gz"


def empty_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


def unknown_format(folder: Path) -> Path:
    folder.mkdir()
    (folder / "scan.xyz").write_bytes(b"?")
    return folder / "scan.xyz"


@pytest.mark.parametrize("make", [truncated, text_named_nifti, missing, empty_folder, unknown_format])
def test_segment_refuses_a_scan_that_cannot_be_read(amsam, adapter_folder, tmp_path, make):
    scan = make(tmp_path / "bad")

    ran = amsam("segment", scan, "-o", "out/mask.nii.gz")

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert ran.out == ""
    assert not Path("out").exists()


def nothing_inside(folder: Path) -> None:
    folder.mkdir()


def no_images(folder: Path) -> None:
    save_nifti(folder / "case_0.nii.gz", ball_scan(0)[1].data.astype(np.uint8))


def other_shape(folder: Path) -> None:
    save_balls(folder, 0)
    save_nifti(folder / "labels" / "case_0.nii.gz", np.ones((4, 48, 48), dtype=np.uint8))


def no_label(folder: Path) -> None:
    save_balls(folder, 0, annotated=slice(0, 0))


def broken_labels(folder: Path) -> None:
    save_balls(folder, 0)
    (folder / "labels" / "case_0.nii.gz").write_text("no voxels")


def broken_image(folder: Path) -> None:
    save_balls(folder, 0)
    path = folder / "images" / "case_0.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])


def not_there(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    "make", [not_there, nothing_inside, no_images, other_shape, no_label, broken_labels, broken_image]
)
def test_adapt_refuses_shots_that_cannot_be_used(amsam, toy, tmp_path, make):
    make(tmp_path / "bad")

    ran = amsam("adapt", "bad", "--steps", 0, "--no-forecast")

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert ran.out == ""
    assert not Path("amsam_adapter").exists()


def foreign_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")


def damaged_adapter(folder: Path) -> None:
    folder.mkdir()
    (folder / "amsam.json").write_text("{")


@pytest.mark.parametrize("make", [not_there, foreign_folder, damaged_adapter])
def test_segment_and_info_refuse_a_wrong_adapter(amsam, scans_folder, tmp_path, make):
    make(tmp_path / "wrong")

    ran = amsam("segment", scans_folder / "images" / "case_7.nii.gz", "-a", "wrong", "-o", "out/mask.nii.gz")

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert not Path("out").exists()
    assert amsam("info", "wrong").code == 2


@pytest.mark.parametrize("output", ["mask.xyz", "mask.dcm", "bad.json"])
def test_segment_refuses_a_format_it_does_not_write(amsam, adapter_folder, scans_folder, output):
    ran = amsam("segment", scans_folder / "images" / "case_7.nii.gz", "-o", output)

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert not Path(output).exists()


def test_evaluate_refuses_grids_that_differ(amsam, scans_folder, tmp_path):
    other = save_nifti(tmp_path / "other.nii.gz", np.ones((4, 8, 8), dtype=np.uint8))

    ran = amsam("evaluate", other, scans_folder / "labels" / "case_7.nii.gz", "--csv", "a.csv")

    assert ran.code == 2
    assert_two_lines(ran.err)
    assert not Path("a.csv").exists()


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_adapt_refuses_a_device_that_is_not_there(amsam, shots_folder, device):
    ran = amsam("adapt", shots_folder, "-d", device, "--steps", 0)

    assert ran.code == 2
    assert_two_lines(ran.err)
