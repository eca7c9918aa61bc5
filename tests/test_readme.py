"""What the README tells users to type is typed here, with the toy in the place of the models."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

from amsam_cli import cli
from tests.toy import ToyModel

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SET_UP = [
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/amsam demo",
    "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest -n auto --dist loadfile",
]


def blocks(language: str) -> list[str]:
    """Return the fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def lines() -> list[str]:
    """Return the `amsam …` lines, in order."""
    return [line for block in blocks("bash") for line in block.splitlines() if line.startswith("amsam ")]


@pytest.fixture
def beside_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder beside which lie the sample data, as in a clone."""
    monkeypatch.chdir(tmp_path)
    Path("sample_data").symlink_to(ROOT / "sample_data")


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy by the name of every model, and downloads that need no network."""

    def load(spec: str, device: str = "cpu", *, image_size: int | None = None) -> ToyModel:
        model = ToyModel(image_size=image_size or 64)
        model.name = spec
        return model

    monkeypatch.setattr("amsam_cli.models.load", load)
    monkeypatch.setattr("amsam_cli.weights.pull", lambda name, on_progress: Path(name))


@pytest.mark.slow
def test_readme_commands_work_as_typed(toys, beside_samples, capsys):
    failed = {line: capsys.readouterr().err for line in lines() if cli.main(shlex.split(line)[1:]) != cli.OK}

    assert failed == {}


@pytest.mark.slow
def test_readme_python_works_as_typed(toys, beside_samples, capsys):
    (block,) = blocks("python")

    exec(compile(block, "README.md", "exec"), {})

    assert "liver" in capsys.readouterr().out
    assert Path("mask.nii.gz").is_file()


def test_readme_shows_every_command():
    commands = typer.main.get_command(cli.app).commands

    assert [name for name in commands if f"amsam {name}" not in README] == []


def test_readme_has_the_two_set_up_lines():
    assert re.findall(r"^python3 -m venv .*$", README, re.MULTILINE) == SET_UP


def test_ci_types_the_set_up_lines_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()

    assert "grep '^python3 -m venv ' README.md" in script
    assert subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=False).returncode == 0


def test_readme_says_that_no_engine_has_run_the_dockerfile():
    assert "no container engine has run it" in README


def test_readme_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#:]+)\)", README)

    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
