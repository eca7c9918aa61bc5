from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from amsam_cli.bench import demo
from amsam_cli.errors import ResourceError
from amsam_cli.weights import CHECKPOINTS, location
from tests.conftest import save_balls

ROOT = Path(__file__).parents[1]
LEFT = {"adapter", "mask.nii.gz", "mask.nii.gz.json", "mask.nii.gz.preview.png", "metrics.json"}

needs_weights = pytest.mark.skipif(
    not location(CHECKPOINTS["builtin"]).is_file(), reason="the built-in weights are not in this checkout"
)


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sample data of the usual layout, small: balls for organs."""
    folder = tmp_path / "samples"
    for seed in (0, 1):
        save_balls(folder, seed, annotated=slice(4, 6))
    save_balls(tmp_path, 7)
    shutil.copy(tmp_path / "images" / "case_7.nii.gz", folder / "scan.nii.gz")
    shutil.copy(tmp_path / "labels" / "case_7.nii.gz", folder / "reference.nii.gz")
    monkeypatch.setattr(demo, "find_sample_data", lambda: folder)
    return folder


def test_demo_leaves_what_it_says_and_prints_the_metrics(amsam, toy, samples):
    ran = amsam("demo")

    assert ran.code == 0, ran.err
    assert {path.name for path in Path("amsam_demo").iterdir()} == LEFT
    assert "Dice" in ran.out
    assert "mean" in ran.out


def test_demo_metrics_are_those_of_evaluate(amsam, toy, samples):
    amsam("demo", "--output", "here")

    ran = amsam("evaluate", "here/mask.nii.gz", samples / "reference.nii.gz", "--json")

    assert json.loads(Path("here/metrics.json").read_text())["rows"] == ran.json["rows"]


def test_demo_may_run_again_in_the_same_folder(amsam, toy, samples):
    assert [amsam("demo").code, amsam("demo").code] == [0, 0]
    assert {path.name for path in Path("amsam_demo").iterdir()} == LEFT


def test_demo_finds_the_sample_data_of_the_checkout():
    assert (demo.find_sample_data() / "labels").is_dir()


def test_demo_says_so_when_there_are_no_sample_data(monkeypatch, tmp_path):
    monkeypatch.setattr(demo.resources, "files", lambda package: tmp_path / "amsam_cli")

    with pytest.raises(ResourceError, match="sample data are missing"):
        demo.find_sample_data()


@pytest.fixture(scope="module")
def wheel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without a network and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, "-w", str(folder), str(ROOT)], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.slow
def test_wheel_holds_code_sample_data_and_nothing_of_the_workshop(wheel_folder):
    names = {path.relative_to(wheel_folder).as_posix() for path in wheel_folder.rglob("*") if path.is_file()}

    assert {"amsam_cli/cli/__init__.py", "amsam_cli/sample_data/scan.nii.gz", "amsam_cli/bench/splits.json"} <= names
    assert not any(name.startswith("tests/") or "__pycache__" in name for name in names)


@pytest.mark.slow
@needs_weights
def test_demo_runs_from_a_wheel_in_an_empty_folder(wheel_folder, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(wheel_folder), "PYTHONSAFEPATH": "1"}
    code = "import amsam_cli, sys; from amsam_cli.cli import main; print(amsam_cli.__file__); sys.exit(main(['demo']))"

    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(wheel_folder))
    assert {path.name for path in (tmp_path / "amsam_demo").iterdir()} == LEFT
