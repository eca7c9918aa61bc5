"""What tests of the command line share."""

from __future__ import annotations


def assert_two_lines(err: str) -> None:
    """Assert that stderr is a known failure: what and where, then the hint."""
    lines = err.rstrip("\n").split("\n")
    assert len(lines) == 2
    assert lines[1].startswith("Hint: ")
    assert "Traceback" not in err
