from __future__ import annotations

import math

import pytest
import torch

from amsam_cli.methods.shape import learn_shape


def test_shape_tells_a_label_with_holes_from_one_without():
    solid = torch.zeros(2, 16, 16)
    solid[:, 4:12, 4:12] = 1
    hollow = solid.clone()
    hollow[1, 7:9, 7:9] = 0
    nearly = solid.clone()
    nearly[1, 7, 7] = 0

    assert not learn_shape(solid).hollow
    assert learn_shape(hollow).hollow
    assert learn_shape(nearly).hollow
    assert learn_shape(solid[:1]).hollow  # one shot does not tell


def test_shape_tells_a_label_in_pieces_from_a_label_with_a_speck():
    pieces, speck = torch.zeros(2, 16, 16), torch.zeros(2, 16, 16)
    for masks, size in ((pieces, 3), (speck, 1)):
        masks[:, 2:6, 2:6] = 1
        masks[1, 10 : 10 + size, 10 : 10 + size] = 1

    assert learn_shape(pieces).several
    assert not learn_shape(speck).several


def test_shape_knows_where_the_shots_have_the_label():
    masks = torch.zeros(2, 16, 16)
    masks[0, 2:6, 8:12] = 1
    masks[1, 4:8, 8:12] = 1

    shape = learn_shape(masks)

    assert (shape.row, shape.column) == (5 / 16, 10 / 16)
    assert shape.spread == pytest.approx(math.sqrt((2 * (1 / 16) ** 2 + 0) / 2 + 0.08**2), abs=1e-4)
    assert learn_shape(masks[:1]).spread is None


def test_shape_has_a_place_where_the_shots_agree_on_it():
    masks = torch.zeros(2, 64, 64)
    masks[0, 20:24, 20:24] = masks[1, 22:26, 22:26] = 1
    apart = masks.clone()
    apart[1] = masks[1].roll(16, dims=1)

    assert learn_shape(masks).has_place
    assert not learn_shape(apart).has_place
    assert not learn_shape(masks[:1]).has_place
