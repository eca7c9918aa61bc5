"""The Dockerfile is read as an engine would read it, and its own steps are carried out in a scratch folder."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.skipif(not (ROOT / "Dockerfile").is_file(), reason="only in a checkout")

KEYWORDS = {"ARG", "FROM", "RUN", "COPY", "ENV", "VOLUME", "WORKDIR", "USER", "ENTRYPOINT", "CMD"}


@dataclass(frozen=True)
class Step:
    """One instruction, its continuation lines joined."""

    keyword: str
    value: str

    def words(self) -> list[str]:
        return shlex.split(self.value)

    def commands(self) -> list[list[str]]:
        """Return the commands of a RUN step as words."""
        return [shlex.split(command) for command in re.split(r"&&|;", self.value)]


def parse(text: str) -> list[Step]:
    """Return the instructions of a Dockerfile: comment lines dropped, lines ending in a backslash joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\s*\n", " ", "\n".join(lines))
    parts = (line.partition(" ") for line in joined.split("\n"))
    return [Step(keyword.upper(), value.strip()) for keyword, _, value in parts]


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    return parse((ROOT / "Dockerfile").read_text())


def of(steps: list[Step], keyword: str) -> list[Step]:
    return [step for step in steps if step.keyword == keyword]


def environment(steps: list[Step]) -> dict[str, str]:
    return dict(word.partition("=")[::2] for step in of(steps, "ENV") for word in step.words())


def pip_installs(steps: list[Step]) -> list[list[str]]:
    """Return the words of every command that runs pip install, in order."""
    commands = [command for step in of(steps, "RUN") for command in step.commands()]
    return [command for command in commands if "pip" in command and "install" in command]


def requirements(command: list[str]) -> list[Requirement]:
    """Return the requirements among the arguments of pip install; options and paths are left out."""
    arguments = command[command.index("install") + 1 :]
    return [Requirement(word) for word in arguments if not word.startswith(("-", "/"))]


def copies(steps: list[Step]) -> list[tuple[list[str], str]]:
    return [(words[:-1], words[-1]) for words in (step.words() for step in of(steps, "COPY"))]


def ignored(path: str, rules: list[str]) -> bool:
    """Return whether .dockerignore keeps `path` from the builder: the last rule that fits it or a parent decides."""
    verdict = False
    places = [PurePosixPath(path), *PurePosixPath(path).parents][:-1]
    for rule in rules:
        pattern = re.escape(rule.removeprefix("!").strip("/"))
        pattern = pattern.replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(pattern, str(place)) for place in places):
            verdict = not rule.startswith("!")
    return verdict


@pytest.fixture(scope="module")
def rules() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def test_parse_joins_lines_and_drops_comments():
    steps = parse("# a\nFROM base\nRUN one \\\n  # between\n  && two\n\nENV A=1 \\\n    B=2\n")

    assert steps == [Step("FROM", "base"), Step("RUN", "one    && two"), Step("ENV", "A=1      B=2")]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a.py", True), ("src", False), ("src/a.py", False), ("src/x/__pycache__/a.pyc", True), ("src2", True)],
)
def test_ignored_follows_the_last_rule_that_fits(path, expected):
    assert ignored(path, ["*", "!src", "**/__pycache__"]) is expected


def test_dockerfile_has_only_known_instructions(steps):
    assert {step.keyword for step in steps} <= KEYWORDS


def test_dockerfile_builds_on_a_cuda_image_whose_python_is_new_enough(steps):
    image = dict(step.value.partition("=")[::2] for step in of(steps, "ARG"))["CUDA_IMAGE"]
    release = re.fullmatch(r"nvidia/cuda:[\d.]+-(?:base|runtime)-ubuntu(\d\d)\.04", image)

    assert of(steps, "FROM") == [Step("FROM", "${CUDA_IMAGE}")]
    assert release
    assert int(release[1]) >= 24  # Python 3.12; 22.04 has 3.10


def test_dockerfile_installs_torch_then_sam2_then_amsam(steps):
    torch, sam2, amsam = pip_installs(steps)

    assert {requirement.name for requirement in requirements(torch)} >= {"torch", "torchvision", "setuptools"}
    assert [requirement.name for requirement in requirements(sam2)] == ["sam2"]
    assert "--no-build-isolation" in sam2
    assert sam2[0] == "SAM2_BUILD_CUDA=0"
    assert amsam[-1] == "/opt/src"


def test_dockerfile_asks_for_the_versions_of_the_project(steps):
    wanted = {(parsed := Requirement(line)).name: parsed.specifier for line in PROJECT["dependencies"]}
    asked = [requirement for command in pip_installs(steps) for requirement in requirements(command)]

    differing = [str(each) for each in asked if each.name != "setuptools" and each.specifier != wanted[each.name]]

    assert differing == []


def test_dockerfile_copies_what_exists_and_is_not_ignored(steps, rules):
    sources = [source for sources, _ in copies(steps) for source in sources]

    assert [source for source in sources if not (ROOT / source).exists() or ignored(source, rules)] == []


def test_dockerfile_sends_neither_history_nor_tests_to_the_builder(rules):
    kept_away = [".git", "tests/toy.py", "amsam_demo", "amsam_cli/models/__pycache__/base.pyc", "checkpoint.pt"]

    assert [path for path in kept_away if not ignored(path, rules)] == []


def test_dockerfile_runs_as_a_user_without_rights(steps):
    last = of(steps, "USER")[-1].value

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last)
    assert steps.index(of(steps, "USER")[-1]) > max(steps.index(step) for step in of(steps, "RUN"))


def test_dockerfile_lets_any_user_write_home_weights_and_work(steps):
    made = [
        command
        for step in of(steps, "RUN")
        for command in step.commands()
        if command[:3] == ["mkdir", "--mode", "1777"]
    ]
    variables = environment(steps)

    assert {variables["HOME"], variables["AMSAM_HOME"], of(steps, "WORKDIR")[-1].value} <= set(made[0])
    assert [step.value for step in of(steps, "VOLUME")] == [variables["AMSAM_HOME"]]


def test_dockerfile_keeps_off_the_network_and_on_the_gpu(steps):
    variables = environment(steps)

    assert variables["AMSAM_OFFLINE"] == "1"
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert variables["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_dockerfile_starts_amsam(steps):
    entry = json.loads(of(steps, "ENTRYPOINT")[-1].value)

    assert entry == ["amsam"]
    assert entry[0] in PROJECT["scripts"]


@pytest.fixture(scope="module")
def image(steps: list[Step], rules: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scratch root in which the COPY steps and the last pip step were carried out, offline."""
    root = tmp_path_factory.mktemp("image")
    for sources, target in copies(steps):
        for source in sources:
            into = root / target.lstrip("/") / (source if target.endswith("/") else "")
            _copy(ROOT / source, into, rules)
    package = root / pip_installs(steps)[-1][-1].lstrip("/")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(root / "site")]
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "install", *options, str(package)], check=True)
    return root


def _copy(source: Path, target: Path, rules: list[str]) -> None:
    """Copy a file, or the files of a folder that are not ignored."""
    for file in [source] if source.is_file() else source.rglob("*"):
        if file.is_file() and not ignored(file.relative_to(ROOT).as_posix(), rules):
            place = target / file.relative_to(source) if source.is_dir() else target
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)


def _run(image: Path, *arguments: str) -> str:
    variables = {"PYTHONPATH": str(image / "site"), "HOME": str(image), "AMSAM_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=image, env=variables, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_image_runs_the_installed_copy(image):
    module = _run(image, "-c", "import amsam_cli; print(amsam_cli.__file__)")

    assert Path(module).is_relative_to(image / "site")


@pytest.mark.slow
@pytest.mark.parametrize("start", [["-m", "amsam_cli"], ["site/bin/amsam"]], ids=["module", "entry point"])
def test_image_tells_its_version(image, start):
    from amsam_cli import __version__

    assert __version__ in _run(image, *start, "--version")


@pytest.mark.slow
def test_image_holds_the_sample_data(image):
    packed = {path.name for path in (image / "site/amsam_cli/sample_data").iterdir()}

    assert packed >= {path.name for path in (ROOT / "sample_data").iterdir() if not path.name.startswith((".", "_"))}
