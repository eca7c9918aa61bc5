"""The house keeps its order: floors, fences, names and sizes (amsam_cli/README.md draws the map)."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import amsam_cli

HOUSE = Path(amsam_cli.__file__).parent

# From the roof to the ground; a room imports only from rooms on lower floors, and from itself.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("__init__",),
    ("bench", "demo"),
    ("cluster",),
    ("batch",),
    ("adaptation", "suggest", "pretrain"),
    ("segmentation", "evaluation", "review"),
    ("adapter",),
    ("methods",),
    ("models",),
    ("preprocess",),
    ("report",),  # above io, whose atomic writing it uses
    ("io", "metrics", "weights"),
    ("volume",),
    ("errors", "version"),
)
FLOOR = {room: -index for index, rooms in enumerate(FLOORS) for room in rooms}

FENCES = {
    "typer": {"cli"},
    "rich": {"cli"},
    "sam2": {"models", "bench"},
    "segment_anything": {"models", "bench"},
    "transformers": {"models", "bench"},
    "peft": {"adapter"},
    "SimpleITK": {"io", "bench"},
    "nibabel": {"io"},
    "pydicom": {"io"},
    "highdicom": {"io"},
    "monai": {"io", "preprocess", "metrics", "bench"},
    "ray": {"cluster"},
    "matplotlib": {"bench", "pretrain"},
    "nnunetv2": {"bench"},
    "sklearn": {"bench"},
}
OF_PEERS = {"nnunetv2", "sklearn", "matplotlib"}
"""Packages of the extra `bench`, which the tests do without."""
WITHOUT_TORCH = {"errors", "volume", "metrics", "weights", "report", "cli", "version", "__init__", "__main__"}

FILE_LINES, FUNCTION_LINES, PARAMETERS = 600, 60, 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


def files() -> list[Path]:
    return sorted(HOUSE.rglob("*.py"))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(HOUSE)}:{getattr(node, 'lineno', 1)}"


def room_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST, path: Path) -> Iterator[str]:
    """Yield the full names of the modules an import statement may load."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = ("amsam_cli", *path.relative_to(HOUSE).parent.parts)
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
        yield from (f"{base}.{alias.name}" for alias in node.names)


def imports(path: Path) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree(path)):
        yield from ((node, name) for name in imported(node, path))


def module_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run at import, those under `if TYPE_CHECKING` left out."""
    for statement in body:
        if isinstance(statement, Function | ast.ClassDef):
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue
        yield statement
        for name in ("body", "orelse", "finalbody"):
            yield from module_level(getattr(statement, name, []))


def functions(path: Path) -> Iterator[Function]:
    yield from (node for node in ast.walk(tree(path)) if isinstance(node, Function))


def is_command(path: Path, function: Function) -> bool:
    """Return whether Typer makes a command of it: its parameters are the options."""
    return room_of(path) == "cli" and function.name.endswith("_command")


def submodules() -> list[str]:
    found = pkgutil.walk_packages([str(HOUSE)], "amsam_cli.")
    return [module.name for module in found if not module.name.endswith("__main__")]


def imported_room(name: str) -> str | None:
    """Return the room of a module of ours, "__init__" for a public name of the package, None for others."""
    parts = name.split(".")
    if parts[0] != "amsam_cli":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else "__init__"


def test_every_room_has_a_floor():
    assert {room_of(path) for path in files()} - FLOOR.keys() == set()


def test_imports_go_down():
    upward = [
        f"{place(path, node)} imports {name}"
        for path in files()
        for node, name in imports(path)
        if (room := imported_room(name)) is not None
        and room != room_of(path)
        and FLOOR[room] >= FLOOR.get(room_of(path), 0)
    ]

    assert upward == []


def test_fenced_libraries_stay_in_their_rooms():
    outside = [
        f"{place(path, node)} imports {name}"
        for path in files()
        for node, name in imports(path)
        if room_of(path) not in FENCES.get(name.split(".")[0], {room_of(path)})
    ]

    assert outside == []


def test_only_the_command_line_prints():
    printing = [
        place(path, node)
        for path in files()
        for node in ast.walk(tree(path))
        if room_of(path) != "cli"
        and isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]

    assert printing == []


def test_light_rooms_import_no_torch_at_module_level():
    heavy = [
        place(path, statement)
        for path in files()
        if room_of(path) in WITHOUT_TORCH
        for statement in module_level(tree(path).body)
        if any(name.split(".")[0] in {"torch", "torchvision"} for name in imported(statement, path))
    ]

    assert heavy == []


def test_light_rooms_load_no_torch():
    modules = [name for name in submodules() if name.split(".")[1] in WITHOUT_TORCH]
    code = f"import sys, amsam_cli, {', '.join(modules)}; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def loaded() -> dict[str, ModuleType]:
    """Every module of the package, imported; peers whose own package is not here are left out."""
    found = {}
    for name in ["amsam_cli", *submodules()]:
        try:
            found[name] = importlib.import_module(name)
        except ModuleNotFoundError as err:
            if (err.name or "").partition(".")[0] not in OF_PEERS:
                raise
    return found


def test_no_function_shares_its_modules_name():
    shared = [
        place(path, statement)
        for path in files()
        for statement in tree(path).body
        if isinstance(statement, Function)
        and statement.name == (path.parent.name if path.stem == "__init__" else path.stem)
    ]

    assert shared == []


def test_no_submodule_hides_a_public_name(loaded):
    hidden = [
        f"{name}.{public}"
        for name, module in loaded.items()
        for public in getattr(module, "__all__", ())
        if isinstance(getattr(module, public), ModuleType)
    ]

    assert hidden == []


def test_public_functions_and_types_are_callable_after_all_imports(loaded):
    defined = [
        (module, statement.name)
        for name, module in loaded.items()
        for statement in tree(Path(str(module.__file__))).body
        if isinstance(statement, Function | ast.ClassDef) and not statement.name.startswith("_")
    ]

    assert [f"{module.__name__}.{name}" for module, name in defined if not callable(getattr(module, name))] == []


def test_files_are_short():
    long = {path.name: n for path in files() if (n := len(path.read_text().splitlines())) > FILE_LINES}

    assert long == {}


def test_functions_are_short():
    long = [
        f"{place(path, function)} {function.name}: {lines} lines"
        for path in files()
        for function in functions(path)
        if (lines := int(function.end_lineno or 0) - function.lineno + 1) > FUNCTION_LINES
        and not is_command(path, function)
    ]

    assert long == []


def test_functions_take_few_parameters():
    wide = [
        f"{place(path, function)} {function.name}"
        for path in files()
        for function in functions(path)
        if len([a for a in (*function.args.args, *function.args.kwonlyargs) if a.arg not in ("self", "cls")])
        > PARAMETERS
        and not is_command(path, function)
    ]

    assert wide == []


def test_only_the_outermost_loops_catch_everything():
    caught = [
        place(path, node)
        for path in files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or any(getattr(part, "id", "") == "Exception" for part in ast.walk(node.type)))
        and room_of(path)
        not in {"cli", "batch", "cluster"}  # what Ray raises where it does not start is a bare Exception
    ]

    assert caught == []
