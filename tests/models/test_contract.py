"""One suite for every model: what amsam's methods may rely on, whichever network is behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from amsam_cli.methods.calibrated_attention import calibrate
from amsam_cli.models.base import Decoded, Embedding, Memory, MemoryModel, PromptableModel, Prompts, Span
from tests.toy import disc_frames

ROWS = 3


def frames(model: PromptableModel, count: int = ROWS) -> Tensor:
    return disc_frames(count, image_size=model.image_size)[0]


@cache
def encode(model: PromptableModel, count: int = ROWS) -> Embedding:
    return model.encode(frames(model, count))


def box(model: PromptableModel, rows: int, *, start: float = 0.2, end: float = 0.7) -> Prompts:
    corners = torch.tensor([[start, start], [end, end]]) * model.image_size
    return Prompts(corners.expand(rows, 2, 2), torch.tensor([[2, 3]], dtype=torch.int32).expand(rows, 2))


def mixed_prompts(model: PromptableModel) -> Prompts:
    """A row with two points, one with a box and a point, one with nothing."""
    side = model.image_size
    points = torch.tensor([[[0.5, 0.5], [0.1, 0.9], [0, 0]], [[0.2, 0.2], [0.7, 0.7], [0.5, 0.4]], [[0, 0]] * 3]) * side
    labels = torch.tensor([[1, 0, -1], [2, 3, 1], [-1, -1, -1]], dtype=torch.int32)
    return Prompts(points, labels, torch.randn(ROWS, model.width, generator=torch.Generator().manual_seed(1)))


@cache
def bank(model: MemoryModel, rows: int, ages: tuple[int, ...] = (0, 0, 1, 3)) -> list[Memory]:
    pixels, masks = disc_frames(len(ages), image_size=model.image_size, seed=7)
    with torch.no_grad():
        memories = model.remember(model.encode(pixels), masks)
    return [memories.rows([i]).repeat(rows).aged(age) for i, age in enumerate(ages)]


def assert_same_rows(batch: Decoded, alone: list[Decoded]) -> None:
    """Compare to 1e-4 of the spread of the values: random networks have logits of any size."""
    for name in ("logits", "score", "presence"):
        together, apart = getattr(batch, name), torch.cat([getattr(row, name) for row in alone])
        assert_close(together, apart, rtol=1e-4, atol=1e-4 * max(1.0, float(apart.abs().max())))


def test_model_keeps_the_protocol(model):
    assert isinstance(model, PromptableModel)
    assert model.device == torch.device("cpu")
    assert set(model.adaptable()) >= {"decoder", "encoder"}


def test_memory_model_keeps_the_protocol(memory_model):
    assert isinstance(memory_model, MemoryModel)
    assert "memory" in memory_model.adaptable()


def test_encode_gives_features_at_stride_16(model):
    embedding = encode(model)

    grid = model.image_size // 16
    assert embedding.features.shape == (ROWS, model.width, grid, grid)
    assert all(len(level) == ROWS for level in embedding.detail)


def test_encode_keeps_the_frame_on_the_grid_of_logits(model):
    pixels = frames(model)

    kept = encode(model).detail[-1]

    assert kept.shape == (ROWS, 3, model.image_size // 4, model.image_size // 4)
    assert_close(kept[:, :, 0, 0], pixels[:, :, :4, :4].mean(dim=(2, 3)))


def test_encode_gives_no_gradients(model):
    pixels = frames(model).requires_grad_(True)

    embedding = model.encode(pixels)

    assert not any(level.requires_grad for level in (embedding.features, *embedding.detail))


def test_encode_treats_each_frame_alone(model):
    pixels = frames(model)

    together = model.encode(pixels).features
    alone = torch.cat([model.encode(pixels[i : i + 1]).features for i in range(ROWS)])

    assert_close(together, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


def test_decode_gives_one_mask_a_row_at_stride_4(model):
    decoded = model.decode(encode(model), mixed_prompts(model))

    side = model.image_size // 4
    assert decoded.logits.shape == (ROWS, 1, side, side)
    assert decoded.score.shape == decoded.presence.shape == (ROWS,)
    assert all(value.isfinite().all() for value in (decoded.logits, decoded.score, decoded.presence))


def test_decode_treats_each_row_alone(model):
    embedding, prompts = encode(model), mixed_prompts(model)

    together = model.decode(embedding, prompts)

    assert_same_rows(together, [model.decode(embedding.rows([i]), prompts.rows([i])) for i in range(ROWS)])


def test_decode_follows_the_order_of_rows(model):
    embedding, prompts = encode(model), mixed_prompts(model)

    forward = model.decode(embedding, prompts)
    backward = model.decode(embedding.rows([2, 1, 0]), prompts.rows([2, 1, 0]))

    assert_close(backward.logits.flip(0), forward.logits, rtol=1e-4, atol=1e-4)


def test_decode_passes_gradients_to_decoder_and_learned_prompts(model):
    embedding, decoder = encode(model), model.adaptable()["decoder"]
    dense = torch.zeros(ROWS, model.width, requires_grad=True)
    decoder.requires_grad_(True)

    model.decode(embedding, Prompts.empty(ROWS, dense=dense)).logits.square().sum().backward()

    touched = [name for name, value in decoder.named_parameters() if value.grad is not None and value.grad.any()]
    decoder.requires_grad_(False).zero_grad(set_to_none=True)
    assert any("v_proj" in name for name in touched)
    assert dense.grad is not None
    assert dense.grad.abs().sum(1).gt(0).all()


def test_decode_keeps_the_network_frozen(model):
    decoded = model.decode(encode(model), Prompts.empty(ROWS))

    assert not decoded.logits.requires_grad
    assert not model.network.training


def test_decode_passes_gradients_on_from_features(model):
    embedding = encode(model)
    features = embedding.features.clone().requires_grad_(True)

    model.decode(Embedding(features, embedding.detail), box(model, ROWS)).logits.sum().backward()

    assert features.grad is not None
    assert features.grad.abs().sum((1, 2, 3)).gt(0).all()


@pytest.mark.parametrize("label", [0, 1])
def test_decode_moves_the_mask_with_a_point(model, label):
    embedding = encode(model, 1)
    place = torch.full((1, 1, 2), model.image_size / 2)

    without = model.decode(embedding, Prompts.empty(1)).logits
    with_point = model.decode(embedding, Prompts(place, torch.full((1, 1), label, dtype=torch.int32))).logits

    assert (without - with_point).abs().max() > 1e-3 * without.std()


def test_decode_tells_positive_from_negative_points(model):
    embedding = encode(model, 1)
    place = torch.full((1, 1, 2), model.image_size / 2)

    negative, positive = (
        model.decode(embedding, Prompts(place, torch.full((1, 1), label, dtype=torch.int32))).logits for label in (0, 1)
    )

    assert (negative - positive).abs().max() > 1e-3 * positive.std()


def test_decode_moves_the_mask_with_the_box(model):
    embedding = encode(model, 1)

    without = model.decode(embedding, Prompts.empty(1)).logits
    small = model.decode(embedding, box(model, 1, end=0.4)).logits
    large = model.decode(embedding, box(model, 1, end=0.9)).logits

    assert (without - small).abs().max() > 1e-3 * without.std()
    assert (large - small).abs().max() > 1e-3 * large.std()


def test_decode_starts_learned_prompts_at_no_prompt(model):
    embedding, start = encode(model), model.no_prompt()

    default = model.decode(embedding, box(model, ROWS)).logits
    prompts = box(model, ROWS)
    learned = model.decode(embedding, Prompts(prompts.points, prompts.point_labels, start.expand(ROWS, -1))).logits

    assert start.shape == (model.width,)
    assert torch.equal(default, learned)


def test_decode_uses_each_rows_learned_prompt(model):
    embedding = encode(model, 1).repeat(2)
    dense = torch.stack([model.no_prompt(), model.no_prompt() + 1])

    logits = model.decode(embedding, Prompts.empty(2, dense=dense)).logits

    assert (logits[0] - logits[1]).abs().max() > 1e-3 * logits.std()


def test_decode_gives_the_same_twice(model):
    embedding, prompts = encode(model), mixed_prompts(model)

    assert torch.equal(model.decode(embedding, prompts).logits, model.decode(embedding, prompts).logits)


def test_remember_gives_a_map_a_pointer_and_the_mask(memory_model):
    pixels, masks = disc_frames(ROWS, image_size=memory_model.image_size)

    memory = memory_model.remember(memory_model.encode(pixels), masks)

    grid = memory_model.image_size // 16
    assert memory.map.shape[0] == ROWS
    assert memory.map.shape[2:] == (grid, grid)
    assert memory.pointer.shape == (ROWS, memory_model.width)
    assert memory.mask.shape == (ROWS, 1, grid, grid)
    assert memory.age == 0
    assert 0 <= memory.mask.min() < memory.mask.max() <= 1


def test_remember_takes_soft_masks(memory_model):
    pixels, masks = disc_frames(ROWS, image_size=memory_model.image_size)
    embedding = memory_model.encode(pixels)

    hard, soft = (memory_model.remember(embedding, confidence * masks) for confidence in (1.0, 0.7))
    recalled = [memory_model.recall(embedding, [memory]).logits for memory in (hard, soft)]

    assert recalled[1].isfinite().all()
    assert (recalled[0] - recalled[1]).abs().max() > 0


def test_remember_takes_an_empty_mask(memory_model):
    embedding = encode(memory_model, 1)
    side = memory_model.image_size

    memory = memory_model.remember(embedding, torch.zeros(1, 1, side, side))
    decoded = memory_model.recall(embedding, [memory])

    assert not memory.mask.any()
    assert decoded.logits.isfinite().all()


def test_pointer_is_that_of_remember(memory_model):
    pixels, masks = disc_frames(ROWS, image_size=memory_model.image_size)
    masks[0] = 0
    embedding = memory_model.encode(pixels)

    assert torch.equal(memory_model.pointer(embedding, masks), memory_model.remember(embedding, masks).pointer)


def test_recall_gives_what_decode_gives(memory_model):
    decoded = memory_model.recall(encode(memory_model), bank(memory_model, ROWS))

    side = memory_model.image_size // 4
    assert decoded.logits.shape == (ROWS, 1, side, side)
    assert decoded.score.shape == decoded.presence.shape == (ROWS,)


def test_recall_treats_each_row_alone(memory_model):
    embedding, memories, prompts = encode(memory_model), bank(memory_model, ROWS), mixed_prompts(memory_model)

    together = memory_model.recall(embedding, memories, prompts)

    alone = [
        memory_model.recall(embedding.rows([i]), [memory.rows([i]) for memory in memories], prompts.rows([i]))
        for i in range(ROWS)
    ]
    assert_same_rows(together, alone)


def test_recall_depends_on_the_memory(memory_model):
    embedding, memories = encode(memory_model, 1), bank(memory_model, 1)

    some, all_ = (memory_model.recall(embedding, part).logits for part in (memories[:1], memories))

    assert (some - all_).abs().max() > 0


def test_recall_depends_on_the_age(memory_model):
    embedding, (first, second, *_) = encode(memory_model, 1), bank(memory_model, 1)

    young, old = (memory_model.recall(embedding, [first, second.aged(age)]).logits for age in (1, 5))

    assert (young - old).abs().max() > 0


def test_recall_takes_ages_past_every_table(memory_model):
    embedding, memories = encode(memory_model, 1), bank(memory_model, 1)

    aged = [memory.aged(age) for memory, age in zip(memories, (0, 7, 20, 300), strict=True)]
    decoded = memory_model.recall(embedding, aged)

    assert decoded.logits.isfinite().all()


def test_recall_does_not_care_for_the_order_of_supports(memory_model):
    embedding, memories = encode(memory_model, 1), bank(memory_model, 1, ages=(0, 0, 0))

    forward, backward = (memory_model.recall(embedding, part).logits for part in (memories, memories[::-1]))

    assert_close(forward, backward, rtol=1e-3, atol=1e-3 * float(forward.abs().max()))


def test_recall_takes_prompts_beside_the_memory(memory_model):
    embedding, memories = encode(memory_model, 1), bank(memory_model, 1)

    without, with_box = (
        memory_model.recall(embedding, memories, prompts).logits for prompts in (None, box(memory_model, 1))
    )

    assert (without - with_box).abs().max() > 1e-3 * without.std()


def test_recall_without_prompts_is_recall_with_empty_ones(memory_model):
    embedding, memories = encode(memory_model), bank(memory_model, ROWS)

    default = memory_model.recall(embedding, memories).logits
    empty = memory_model.recall(embedding, memories, Prompts.empty(ROWS)).logits

    assert torch.equal(default, empty)


def test_recall_passes_gradients_to_decoder_memory_and_mask(memory_model):
    pixels, masks = disc_frames(1, image_size=memory_model.image_size)
    masks.mul_(0.9).requires_grad_(True)
    parts = [memory_model.adaptable()[part].requires_grad_(True) for part in ("decoder", "memory")]

    memory = memory_model.remember(memory_model.encode(pixels), masks)
    memory_model.recall(encode(memory_model, 1), [memory]).logits.square().sum().backward()

    reached = [any(value.grad is not None and value.grad.any() for value in part.parameters()) for part in parts]
    for part in parts:
        part.requires_grad_(False).zero_grad(set_to_none=True)
    assert reached == [True, True]
    assert masks.grad is not None
    assert masks.grad.any()


def test_recall_of_a_memory_too_old_for_its_map_still_uses_its_pointer(memory_model):
    if memory_model.name == "toy":
        pytest.skip("the toy has no pointers")
    embedding, (first, second, *_) = encode(memory_model, 1), bank(memory_model, 1)
    other_map = replace(second, map=second.map + 1)
    other_pointer = replace(second, pointer=second.pointer + 1)

    old = [memory_model.recall(embedding, [first, m.aged(9)]).logits for m in (second, other_map, other_pointer)]

    assert torch.equal(old[0], old[1])
    assert not torch.equal(old[0], old[2])


def test_recall_depends_on_the_distance_of_a_key_slice(memory_model):
    if memory_model.name == "toy":
        pytest.skip("the toy has no pointers")
    embedding, (first, second, *_) = encode(memory_model, 1), bank(memory_model, 1)

    near, far = (memory_model.recall(embedding, [first, second.own(distance=d)]).logits for d in (1, 10))

    assert (near - far).abs().max() > 0


def test_recall_without_bias_is_as_published_after_a_biased_one(memory_model):
    embedding, memories = encode(memory_model, 1), bank(memory_model, 1)
    memories = [memory.own(age=memory.age) if memory.age else memory for memory in memories]

    before = memory_model.recall(embedding, memories).logits
    biased = memory_model.recall(embedding, memories, bias=calibrate).logits
    after = memory_model.recall(embedding, memories).logits

    assert torch.equal(before, after)
    assert (before - biased).abs().max() > 0


def test_recall_with_a_bias_of_zero_is_recall_without(memory_model):
    embedding, memories = encode(memory_model, 1), bank(memory_model, 1)

    def nothing(queries: Tensor, keys: Tensor, spans: Sequence[Span]) -> Tensor:
        return queries.new_zeros(len(queries), queries.shape[1], keys.shape[1])

    plain = memory_model.recall(embedding, memories)
    zero = memory_model.recall(embedding, memories, bias=nothing)

    assert_same_rows(zero, [plain])


def test_recall_tells_the_bias_where_each_map_is(memory_model):
    embedding, memories = encode(memory_model, 1), bank(memory_model, 1, ages=(0, 1))
    length = (memory_model.image_size // 16) ** 2
    seen = []

    def look(queries: Tensor, keys: Tensor, spans: Sequence[Span]) -> Tensor:
        seen.extend((memory.age, span.start, span.stop) for memory, span in spans)
        return queries.new_zeros(len(queries), queries.shape[1], keys.shape[1])

    memory_model.recall(embedding, memories, bias=look)

    assert set(seen) == {(0, 0, length), (1, length, 2 * length)}


def test_recall_of_rows_that_lack_a_memory_is_recall_without_it(memory_model):
    embedding, (first, second, third, _) = encode(memory_model, 2), bank(memory_model, 2)
    gap = replace(second, there=torch.tensor([True, False]))

    together = memory_model.recall(embedding, [first, gap, third])

    row = lambda memory, i: replace(memory, there=None).rows([i])  # noqa: E731
    with_it = memory_model.recall(embedding.rows([0]), [row(m, 0) for m in (first, second, third)])
    without = memory_model.recall(embedding.rows([1]), [row(m, 1) for m in (first, third)])
    assert_same_rows(together, [with_it, without])


def test_recall_passes_gradients_through_a_biased_attention(memory_model):
    memories = [memory.own(age=memory.age) if memory.age else memory for memory in bank(memory_model, 1)]
    part = memory_model.adaptable()["memory"].requires_grad_(True)

    memory_model.recall(encode(memory_model, 1), memories, bias=calibrate).logits.square().sum().backward()

    reached = any(value.grad is not None and value.grad.any() for value in part.parameters())
    part.requires_grad_(False).zero_grad(set_to_none=True)
    assert reached


def test_wide_frames_go_alone_to_the_same_end(memory_model, monkeypatch):
    embedding, (first, second, third, _) = encode(memory_model), bank(memory_model, ROWS)
    memories = [first, replace(second, there=torch.arange(ROWS) % 2 == 0), third]
    together = memory_model.recall(embedding, memories)
    kept = memory_model.keep(embedding, together)

    monkeypatch.setattr("amsam_cli.models.batching.WIDE", 0)
    alone = memory_model.recall(embedding, memories)

    assert_same_rows(together, [alone])
    assert_close(memory_model.keep(embedding, together).map, kept.map, rtol=1e-4, atol=1e-4)


def test_keep_gives_a_memory_that_can_be_recalled(memory_model):
    embedding, memories = encode(memory_model), bank(memory_model, ROWS)
    answer = memory_model.recall(embedding, memories)

    kept = memory_model.keep(embedding, answer)

    grid = memory_model.image_size // 16
    assert kept.map.shape == memories[0].map.shape
    assert kept.mask.shape == (ROWS, 1, grid, grid)
    assert kept.pointer.shape == (ROWS, memory_model.width)
    assert memory_model.recall(embedding, [*memories, kept.own(age=1)]).logits.isfinite().all()


def test_keep_remembers_nothing_where_the_model_sees_nothing(memory_model):
    embedding = encode(memory_model, 1)
    answer = memory_model.recall(embedding, bank(memory_model, 1))

    kept = memory_model.keep(embedding, replace(answer, presence=torch.tensor([-5.0])))

    assert kept.mask.max() < 1e-3
