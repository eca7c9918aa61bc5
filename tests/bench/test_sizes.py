"""What models of every size cost: that each is built as the registry says, and that its works run."""

from __future__ import annotations

import pytest

from amsam_cli.bench.sizes import size_works, untrained
from amsam_cli.models.sam1 import Sam1
from amsam_cli.models.sam2 import Sam2


@pytest.mark.parametrize(
    ("name", "kind", "side"), [("builtin", Sam2, 256), ("sam2.1-tiny", Sam2, 512), ("sam-vit-b", Sam1, 256)]
)
def test_untrained_model_is_the_registrys_in_all_but_weights(name, kind, side):
    model = untrained(name)

    assert isinstance(model, kind)
    assert (model.name, model.image_size) == (name, side)


def test_size_works_encode_and_learn():
    encoding, learning = size_works(["builtin"])

    assert encoding.name == "builtin encodes a frame of 256 px"
    assert len(encoding.prepare()()) == encoding.per
    assert learning.prepare()().labels == {1: "disc 1", 2: "disc 2"}
    assert encoding.group != learning.group
