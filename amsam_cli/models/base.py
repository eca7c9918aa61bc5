"""What amsam asks of a segmentation model: encode once, prompt many, remember and recall.

Owns the tensor types that travel between methods and models. Knows no files and no particular network.
Letters: B batch, C channel width, S frame side in pixels, h x w feature grid (S/16), s logit side (S/4), N points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLIP = 10.0
"""Logits of masks are kept within this, so that no single look drowns the others."""

OnStep = Callable[[str, int, int], None]
"""Told about progress: name of the stage, steps done, steps in all."""


def silent(stage: str, done: int, total: int) -> None:
    """Report progress to nobody: the `OnStep` of those who do not ask."""


class Frozen:
    """A network as it came: nothing of it learns unless somebody asks for that.

    Args:
        network: any module.
        name: what the user calls it.
    """

    def __init__(self, network: Any, name: str) -> None:
        self._network = network.eval().requires_grad_(False)
        self.name = name

    @property
    def network(self) -> nn.Module:
        """The whole network."""
        network: nn.Module = self._network
        return network

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device


class Batched:
    """A frozen dataclass of tensors that share their first axis."""

    def __len__(self) -> int:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                return int(value.shape[0])
        raise TypeError(f"{type(self).__name__} holds no tensor")

    def _map(self, function: object) -> Self:
        changed = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = function(value)  # type: ignore[operator]
            elif isinstance(value, tuple) and value and isinstance(value[0], Tensor):
                changed[field.name] = tuple(function(item) for item in value)  # type: ignore[operator]
        return replace(self, **changed)  # type: ignore[type-var]

    def rows(self, index: Tensor | slice | Sequence[int]) -> Self:
        """Return the rows `index`, of every tensor alike."""
        return self._map(lambda tensor: tensor[index])

    def repeat(self, times: int) -> Self:
        """Return every row `times` times in place: rows 0, 0, 1, 1, … for `times` = 2."""
        return self._map(lambda tensor: tensor.repeat_interleave(times, dim=0))

    def to(self, target: torch.device | str | torch.dtype) -> Self:
        """Return it on another device or in another floating-point type."""
        return self._map(lambda tensor: tensor.to(target) if tensor.is_floating_point() else tensor)

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Return the parts joined along the batch."""
        joined: dict[str, object] = {}
        for field in fields(cls):  # type: ignore[arg-type]
            values = [getattr(part, field.name) for part in parts]
            if isinstance(values[0], Tensor):
                joined[field.name] = torch.cat(values)
            elif isinstance(values[0], tuple) and values[0] and isinstance(values[0][0], Tensor):
                joined[field.name] = tuple(torch.cat(column) for column in zip(*values, strict=True))
        return replace(parts[0], **joined)  # type: ignore[type-var]


@dataclass(frozen=True, slots=True, eq=False)
class Prompts(Batched):
    """What tells the decoder where to look; one row per mask wanted.

    Attributes:
        points: (B, N, 2) float32, xy, frame pixels; rows with fewer points are padded.
        point_labels: (B, N) int: 1 positive, 0 negative, 2 and 3 the corners of a box, -1 padding.
        dense: (B, C), each row's learned prompt, broadcast over the grid; None = the model's own "no mask" prompt.
        channel: (B,) int, which of the decoder's mask tokens answers each row, against token 0 as the background; None
            = token 0 itself, SAM's own for a single mask.

    A box is its two corners as points labelled 2 and 3, before the other points, as SAM 2 encodes it.
    """

    points: Tensor
    point_labels: Tensor
    dense: Tensor | None = None
    channel: Tensor | None = None

    @classmethod
    def empty(
        cls,
        rows: int,
        *,
        device: torch.device | str = "cpu",
        dense: Tensor | None = None,
        channel: Tensor | None = None,
    ) -> Prompts:
        """Return `rows` prompts without points or boxes."""
        points = torch.zeros(rows, 1, 2, device=device)
        return cls(points, torch.full((rows, 1), -1, dtype=torch.int32, device=device), dense, channel)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding(Batched):
    """What the image encoder made of frames.

    Attributes:
        features: (B, C, h, w).
        detail: finer maps, (B, C', s', s'): those the decoder wants beside them, model-owned, then the frame itself as
            `shrunk` makes it; empty where features are all there is.
    """

    features: Tensor
    detail: tuple[Tensor, ...] = ()

    @property
    def levels(self) -> tuple[Tensor, ...]:
        """All maps, features first."""
        return (self.features, *self.detail)


def shrunk(pixels: Tensor) -> Tensor:
    """Return frames (B, 3, S, S) on the grid of logits, (B, 3, s, s): brightness, which networks normalise away."""
    return F.avg_pool2d(pixels.float(), 4)


@dataclass(frozen=True, slots=True, eq=False)
class Memory(Batched):
    """One remembered frame and its mask, as tokens for memory attention.

    Attributes:
        map: (B, Cm, h, w).
        pointer: (B, C), the object's token.
        mask: (B, 1, h, w), the mask it was made from, in [0, 1], for calibration against it.
        age: 0 for a conditioning frame (support, pseudo, key slice); 1, 2, … slices back for a tracked one. Past the
            six that SAM 2 has codes for, only the pointer is recalled.
        distance: slices from its frame to the one asked, as the pointer is coded; None = its age, and 1 for a
            support, which has no true distance.
        is_own: whether it is of the scan at hand, not of a support: what calibrated attention may mute.
        there: (B,) bool, which rows have this memory at all; None = all of them.
    """

    map: Tensor
    pointer: Tensor
    mask: Tensor
    age: int = 0
    distance: int | None = None
    is_own: bool = False
    there: Tensor | None = None

    def aged(self, age: int) -> Memory:
        """Return the same memory at another age."""
        return replace(self, age=age)

    def own(self, *, age: int = 0, distance: int | None = None, there: Tensor | None = None) -> Memory:
        """Return it as a memory of the scan at hand: a key slice, a pseudo memory, or a slice tracked `age` back."""
        return replace(self, age=age, distance=distance, is_own=True, there=there)


Span = tuple[Memory, slice]
"""A memory and where its tokens are among the keys of memory attention."""

Bias = Callable[[Tensor, Tensor, Sequence[Span]], Tensor]
"""Queries (B, N, d) and keys (B, M, d) of one cross-attention, with the spans of the keys that are maps -> what to add
to the scores before softmax, (B, N, M). Called for some of the queries at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoded(Batched):
    """What the mask decoder says.

    Attributes:
        logits: (B, 1, s, s), positive inside; s is a quarter of the frame side.
        score: (B,), predicted IoU.
        presence: (B,), logit of "the object is in this frame"; +10 where a model has no such head.
        pointer: (B, C), the object's token, for `MemoryModel.keep`; None where a model has no memory.
    """

    logits: Tensor
    score: Tensor
    presence: Tensor
    pointer: Tensor | None = None

    @classmethod
    def of_channels(cls, masks: Tensor, channel: Tensor, pointer: Tensor | None = None) -> Decoded:
        """Return each row's class from the masks (B, T, s, s) of all tokens: its logit less the background's, token 0.

        The highest of these, or none where all are negative, is the highest of T classes, and their softmax beside a
        zero is that of AM-SAM. Rows are brought within `CLIP` together, so that cutting them there later keeps their
        order. Such a decoder tells absence by its background, not by scores.
        """
        above = masks[:, 1:] - masks[:, :1]
        excess = (above.amax(dim=1, keepdim=True) - CLIP).relu().detach()
        wanted = channel.to(masks.device).view(-1, 1, 1, 1).expand(-1, 1, *masks.shape[2:]) - 1
        sure = torch.ones(len(masks), device=masks.device)
        return cls((above - excess).gather(1, wanted).float(), sure, CLIP * sure, pointer)


@runtime_checkable
class PromptableModel(Protocol):
    """A frozen image encoder and a promptable mask decoder."""

    name: str
    image_size: int
    width: int
    """C: channels of features, prompts and pointers."""

    @property
    def network(self) -> nn.Module:
        """The whole network; its state dict is what a checkpoint holds."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""

    def encode(self, pixels: Tensor) -> Embedding:
        """Return features of `pixels` (B, 3, S, S) float32 in [0, 1]; no gradients."""

    def embed(self, pixels: Tensor) -> Embedding:
        """Return what `encode` returns, with gradients: where the encoder is tuned."""

    def decode(self, embedding: Embedding, prompts: Prompts) -> Decoded:
        """Return one mask per row; row i of `prompts` asks row i of `embedding`. Differentiable."""

    def no_prompt(self) -> Tensor:
        """Return the model's own dense prompt (C,) for "nothing is known": where a learned prompt starts."""

    def adaptable(self) -> Mapping[str, nn.Module]:
        """Return what LoRA may touch: "decoder", "encoder" and, for memory models, "memory" -> module."""


@runtime_checkable
class MemoryModel(PromptableModel, Protocol):
    """A promptable model that can carry a mask from frame to frame."""

    def remember(self, embedding: Embedding, mask: Tensor) -> Memory:
        """Return the memory of frames with masks (B, 1, S, S) in [0, 1], soft ones allowed."""

    def pointer(self, embedding: Embedding, mask: Tensor) -> Tensor:
        """Return the object pointers (B, C) of such a memory, alone; cheaper than `remember`."""

    def keep(self, embedding: Embedding, answer: Decoded) -> Memory:
        """Return the memory of frames with the masks just decoded on them; cheaper than `remember`."""

    def recall(
        self,
        embedding: Embedding,
        bank: Sequence[Memory],
        prompts: Prompts | None = None,
        *,
        bias: Bias | None = None,
    ) -> Decoded:
        """Return masks decoded after attending to `bank`; every memory has the batch of `embedding`.

        `bias` is added to the scores of every cross-attention: None leaves the network as published, to the bit.
        """


@runtime_checkable
class Resizable(Protocol):
    """A model whose weights fit every frame side."""

    image_size: int

    def set_image_size(self, image_size: int) -> None:
        """Change the frame side, a multiple of 32."""


@runtime_checkable
class Standardising(Protocol):
    """A model whose encoder gets pixels less their mean, over their spread."""

    is_plain: bool
    """Whether it gets them in [0, 1] as they are, for now."""


@contextmanager
def at_side(model: PromptableModel, side: int, *, plain: bool = False) -> Iterator[None]:
    """Let `model` work on frames of `side` pixels for the time of the block, if its weights allow.

    `plain` pixels reach its encoder in [0, 1] as they are, as in the public runs of BLO-SAM and AM-SAM.
    """
    before = model.image_size
    if isinstance(model, Resizable):
        model.set_image_size(side)
    if isinstance(model, Standardising):
        model.is_plain = plain
    try:
        yield
    finally:
        if isinstance(model, Resizable):
            model.set_image_size(before)
        if isinstance(model, Standardising):
            model.is_plain = False
