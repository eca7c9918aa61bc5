from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from amsam_cli.methods.calibrated_attention import STRONGEST, calibrate
from amsam_cli.models.base import Memory, Span

SIDE, WIDTH = 4, 8
LENGTH = SIDE * SIDE


def scene(supports: int = 2, own: int = 2, *, rows: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, list[Span]]:
    """Return queries, keys (maps, then four pointer tokens) and the spans of the maps."""
    generator = torch.Generator().manual_seed(seed)
    count = supports + own
    queries = torch.randn(rows, 10, WIDTH, generator=generator)
    keys = torch.randn(rows, count * LENGTH + 4, WIDTH, generator=generator)
    masks = (torch.rand(rows, count, 1, SIDE, SIDE, generator=generator) > 0.5).float()
    spans = []
    for index in range(count):
        content = keys[:, index * LENGTH : (index + 1) * LENGTH].mT.reshape(rows, WIDTH, SIDE, SIDE)
        memory = Memory(content, torch.zeros(rows, WIDTH), masks[:, index], is_own=index >= supports)
        spans.append((memory, slice(index * LENGTH, (index + 1) * LENGTH)))
    return queries, keys, spans


def test_bias_is_between_minus_ten_and_zero():
    bias = calibrate(*scene())

    assert bias.shape == (2, 10, 4 * LENGTH + 4)
    assert bias.max() <= 0
    assert bias.min() >= -STRONGEST


def test_bias_is_on_own_memories_only():
    bias = calibrate(*scene(supports=2, own=2))

    assert not bias[:, :, : 2 * LENGTH].any()
    assert bias[:, :, 2 * LENGTH : 4 * LENGTH].any()
    assert not bias[:, :, 4 * LENGTH :].any()


@pytest.mark.parametrize(("supports", "own"), [(0, 2), (2, 0)], ids=["no support", "nothing of its own"])
def test_bias_is_nowhere_where_there_is_nothing_to_compare(supports: int, own: int):
    assert not calibrate(*scene(supports, own)).any()


def test_bias_mutes_what_supports_do_not_know():
    queries = torch.tensor([[[1.0, 0.0]]])
    known, unknown = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    keys = torch.stack([known, known, unknown])[None]  # one support token; two tokens of the scan's own
    support = Memory(known.view(1, 2, 1, 1), known[None], torch.ones(1, 1, 1, 1))
    own = Memory(torch.zeros(1, 2, 1, 2), known[None], torch.ones(1, 1, 1, 2), is_own=True)

    bias = calibrate(queries, keys, [(support, slice(0, 1)), (own, slice(1, 3))])

    # kappa and S are 1 at the first token and 0 at the second: 10 min(0, 1 + 1 - 1) = 0 and 10 (0 + 0 - 1) = -10.
    torch.testing.assert_close(bias, torch.tensor([[[0.0, 0.0, -10.0]]]))


def test_bias_does_not_depend_on_the_order_of_supports():
    queries, keys, spans = scene(supports=3, own=1)

    forward, backward = calibrate(queries, keys, spans), calibrate(queries, keys, [*spans[2::-1], spans[3]])

    torch.testing.assert_close(forward, backward)


def test_bias_ignores_a_support_that_a_row_lacks():
    queries, keys, spans = scene(supports=2, own=1)
    first, second, own = spans
    absent = replace(second[0], there=torch.tensor([False, True]))

    with_gap = calibrate(queries, keys, [first, (absent, second[1]), own])

    torch.testing.assert_close(with_gap[0], calibrate(queries, keys, [first, own])[0])
    torch.testing.assert_close(with_gap[1], calibrate(queries, keys, [first, second, own])[1])


def test_bias_is_a_constant_for_gradients():
    queries, keys, spans = scene()
    queries.requires_grad_(True)
    keys.requires_grad_(True)

    assert not calibrate(queries, keys, spans).requires_grad


def test_bias_of_each_query_stands_alone():
    queries, keys, spans = scene()

    some = calibrate(queries[:, 3:7], keys, spans)

    torch.testing.assert_close(some, calibrate(queries, keys, spans)[:, 3:7])
