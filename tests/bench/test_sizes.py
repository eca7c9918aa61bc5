"""What models of every size cost: that its works run."""

from __future__ import annotations

from amsam_cli.bench.sizes import size_works


def test_size_works_encode_and_learn():
    encoding, learning = size_works(["builtin"])

    assert encoding.name == "builtin encodes a frame of 256 px"
    assert len(encoding.prepare()()) == encoding.per
    assert learning.prepare()().labels == {1: "disc 1", 2: "disc 2"}
    assert encoding.group != learning.group
