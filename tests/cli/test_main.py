from __future__ import annotations

import subprocess
import sys

import pytest

from amsam_cli.cli.failures import exit_code_of
from amsam_cli.errors import AdapterError, AmsamError, GeometryError, InputError, ResourceError, WeightsError
from tests.cli.conftest import assert_two_lines

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


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["adapt", "--help"]], ids=" ".join)
def test_help_and_version_load_nothing_heavy(arguments):
    code = f"""
import sys
from amsam_cli.cli import main
code = main({arguments!r})
sys.exit(code or any(name in sys.modules for name in ("numpy", "torch", "monai")))
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

    assert (ran.code, ran.out) == (0, "amsam 0.6.0\n")


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
    assert exit_code_of(kind("x")) == code


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
