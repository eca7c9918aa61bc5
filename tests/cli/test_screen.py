from __future__ import annotations

import sys

from amsam_cli.cli.screen import Screen


def test_progress_is_drawn_on_a_terminal_only(capsys, monkeypatch):
    screen = Screen(verbose=False, quiet=False, as_json=False)
    with screen.progress() as on_step:
        on_step("encode", 1, 2)
    piped = capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    with screen.progress() as on_step:
        on_step("encode", 1, 2)

    assert piped == ""
    assert "encode" in capsys.readouterr().err


def test_quiet_silences_warnings(capsys):
    Screen(verbose=False, quiet=True, as_json=False).warn(["beware"])
    Screen(verbose=False, quiet=False, as_json=False).warn(["look [out]"])

    assert capsys.readouterr().err == "Warning: look [out]\n"
