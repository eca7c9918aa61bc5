"""A mask token for each class and one for the background, in the place of SAM's own (BLO-SAM, AM-SAM).

SAM's tokens answer for one object at several sizes. The published runs give its decoder C + 1 fresh ones instead, each
with a hypernetwork of its own, and take a softmax over their masks. The decoder of any of our models can be dressed so,
for the time of a block; it is addressed by `Prompts.channel`. Knows no model by name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def class_tokens(decoder: nn.Module, count: int) -> Iterator[nn.ModuleDict]:
    """Give a mask decoder `count` mask tokens with random weights, and give its own back after the block.

    The scores of its own tokens, which the published loss never sees, are left alone and mean nothing meanwhile.

    Args:
        decoder: SAM 1's or SAM 2's mask decoder, or one built like them.
        count: C + 1; the first one is the background's.
    """
    module: Any = decoder
    own = {name: getattr(module, name) for name in ("mask_tokens", "output_hypernetworks_mlps", "num_mask_tokens")}
    tokens, hypernetwork = own["mask_tokens"], own["output_hypernetworks_mlps"][0]
    fresh = nn.ModuleDict(
        {
            "mask_tokens": nn.Embedding(count, tokens.embedding_dim),
            "output_hypernetworks_mlps": nn.ModuleList(_fresh(hypernetwork) for _ in range(count)),
        }
    ).to(tokens.weight.device)
    try:
        for name, value in (*fresh.items(), ("num_mask_tokens", count)):
            setattr(module, name, value)
        yield fresh.requires_grad_(True)
    finally:
        for name, value in own.items():
            setattr(module, name, value)


def _fresh(module: nn.Module) -> nn.Module:
    """Return a copy of a module with weights as if it had just been built."""
    made = copy.deepcopy(module)
    for part in made.modules():
        if isinstance(part, nn.Linear):
            part.reset_parameters()
    return made
