"""Which code a result was made by, between two releases too: columns of a table must not mix what differs."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from importlib import resources

RESULT_BEARING = (
    "adaptation", "adapter", "methods", "models", "segmentation", "preprocess.py", "volume.py",
)  # fmt: skip
"""Parts of the package that decide what a mask looks like; reading and writing files are held to the voxel by tests."""

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def code_of_results() -> str:
    """Return four letters that change when the code that makes masks does, its comments and docstrings left out."""
    package = resources.files("amsam_cli")
    whole = hashlib.sha256()
    for name in RESULT_BEARING:
        part = package.joinpath(name)
        for text in _sources(part):
            whole.update(code_digest(text).encode())
    return whole.hexdigest()[:4]


def _sources(part: resources.abc.Traversable) -> list[str]:
    """Return the text of a Python file, or of all in a folder and those below it, in the order of their names."""
    if part.is_file():
        return [part.read_text(encoding="utf-8")] if part.name.endswith(".py") else []
    return [text for child in sorted(part.iterdir(), key=lambda each: each.name) for text in _sources(child)]


def code_digest(source: str) -> str:
    """Return a hash of what Python code does.

    >>> code_digest("def f(): return 1  # one") == code_digest("def f():  return 1")
    True
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
