from __future__ import annotations

from amsam_cli.segmentation import MODES, Plan


def test_every_mode_has_a_plan_of_its_own():
    plans = [Plan.of(mode) for mode in MODES]

    assert MODES == ("prior", "slice", "fssam", "track", "full")
    assert len(set(map(repr, plans))) == len(MODES)


def test_full_is_the_default():
    assert repr(Plan.of("full")) == repr(Plan())
