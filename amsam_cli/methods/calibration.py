"""Element-wise mask calibration: what SAM's dot product leaves out, learned beside it (AM-SAM).

SAM's mask is the dot product of a token's hypernetwork output with every pixel of the upscaled image. Before its sum
over channels that product still knows which channel agrees with which; a small branch reads it there. The branch hangs
on the decoder by hooks, so neither SAM 1's nor SAM 2's code is copied or changed. Knows no model by name.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Combine = Literal["sum", "mean"]


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """The three masks of one decoder pass, as logits (B, T, s, s).

    Attributes:
        original: of the dot product, as SAM gives them.
        new: of the element-wise branch.
        combined: what the decoder answers with.
    """

    original: Tensor
    new: Tensor
    combined: Tensor


class CalibrationHead(nn.Module):
    """The branch: 1 x 1 convolutions over the element-wise product, shared by all tokens.

    The last one starts at zero, so that an untrained head leaves every mask as it was.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)
        self.sum = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(self.sum.weight)
        nn.init.zeros_(self.sum.bias)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor, upscaled: Tensor) -> Tensor:
        """Return new masks (B, T, s, s) from `tokens` (B, T, C) and `upscaled` (B, C, s, s).

        AM-SAM (2024), calibration: New_t = w2 GELU(W1 (H_t * U) + b1) + b2. The product is never stored: scaling the
        columns of W1 by H_t comes to the same.
        """
        batch, count, channels = tokens.shape
        scaled = self.mix.weight.view(1, 1, channels, channels) * tokens[:, :, None, :]
        mixed = scaled.reshape(batch, count * channels, channels) @ upscaled.flatten(2)
        mixed = mixed.view(batch * count, channels, *upscaled.shape[2:])
        assert self.mix.bias is not None
        new: Tensor = self.sum(F.gelu(mixed + self.mix.bias.view(1, -1, 1, 1)))
        return new.view(batch, count, *upscaled.shape[2:])


class Tap:
    """Where the three masks of the latest decoder pass can be read; each thread sees its own."""

    def __init__(self) -> None:
        self._local = threading.local()

    @property
    def masks(self) -> Masks:
        """The masks of the latest pass of this thread."""
        found: Masks = self._local.masks
        return found

    def begin(self) -> None:
        """Forget what earlier passes left."""
        self._local.tokens, self._local.upscaled = {}, None

    def hear_token(self, index: int, value: Tensor) -> None:
        """Keep the hypernetwork output (B, C) of one token."""
        self._local.tokens[index] = value

    def hear_upscaled(self, value: Tensor) -> None:
        """Keep the upscaled image (B, C, s, s)."""
        self._local.upscaled = value

    def combine(self, head: CalibrationHead, original: Tensor, how: Combine, count: int) -> Tensor:
        """Return the masks (B, T, s, s) with the first `count` calibrated."""
        heard = torch.stack([self._local.tokens[index] for index in range(count)], dim=1)
        new = head(heard, self._local.upscaled).to(original.dtype)
        chosen = original[:, :count]
        both = chosen + new if how == "sum" else (chosen + new) / 2
        self._local.masks = Masks(chosen, new, both)
        return torch.cat([both, original[:, count:]], dim=1)


def channels_of(decoder: nn.Module) -> int:
    """Return the width of a decoder's upscaled image, an eighth of SAM's transformer: 32 or, built in, 16."""
    hyper: Any = decoder.output_hypernetworks_mlps
    linear = [module for module in hyper[0].modules() if isinstance(module, nn.Linear)]
    return linear[-1].out_features


@contextmanager
def calibrated(
    decoder: nn.Module, head: CalibrationHead, *, combine: Combine = "sum", tokens: int = 1
) -> Iterator[Tap]:
    """Let `head` calibrate the masks of `decoder` for the time of the block.

    Args:
        decoder: SAM 1's or SAM 2's mask decoder, or one built like them.
        head: of `channels_of(decoder)` channels.
        combine: "sum" of logits, or their "mean".
        tokens: how many mask tokens, from the first; amsam asks for the first alone.
    """
    tap = Tap()
    module: Any = decoder
    plain = module.predict_masks

    def predict_masks(*args: Any, **kwargs: Any) -> Any:
        tap.begin()
        masks, *rest = plain(*args, **kwargs)
        return tap.combine(head, masks, combine, tokens), *rest

    # SAM 2 takes the upscaling apart to add finer features between its steps, so only its last step is sure to run.
    handles = [module.output_upscaling[-1].register_forward_hook(lambda _, __, value: tap.hear_upscaled(value))]
    for index in range(tokens):
        hyper = module.output_hypernetworks_mlps[index]
        handles.append(hyper.register_forward_hook(lambda _, __, value, index=index: tap.hear_token(index, value)))
    module.predict_masks = predict_masks
    try:
        yield tap
    finally:
        del module.predict_masks
        for handle in handles:
            handle.remove()
