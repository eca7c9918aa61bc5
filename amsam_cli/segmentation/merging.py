"""Logits of one or two passes become the label map of the scan, in its own voxels, slab by slab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amsam_cli.models.base import CLIP
from amsam_cli.preprocess import Placement
from amsam_cli.segmentation.scene import Place
from amsam_cli.volume import LabelMap, Volume

SLAB_MIB = 16
"""Logits in the scan's own voxels that are held at once; labels made of them take three times as much for a moment."""

CLOSER_WEIGHT = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What one pass found: logits (D, L, s, s), where its slices are, and how they lie in frames."""

    logits: Tensor
    place: Place
    placement: Placement

    def put_into(self, slab: Tensor, start: int) -> None:
        """Paint what this pass found over a slab (n, L, H, W) of slices from `start` on."""
        first, last = max(start, self.place.first), min(start + len(slab), self.place.first + self.place.depth)
        if first >= last:
            return
        part = self.logits[first - self.place.first : last - self.place.first].float()
        rows, columns = (self.place.window.rows, self.place.window.columns) if self.place.window else (slice(None),) * 2
        slab[first - start : last - start, :, rows, columns] = self.placement.restore(part)


def merge(
    found: Sequence[Found], volume: Volume, names: dict[int, str], *, with_probabilities: bool = False
) -> tuple[LabelMap, dict[int, NDArray[np.float16]]]:
    """Return the label with the highest logit at each voxel of the volume's own grid, background being 0.

    `found` is what the first pass found, then what closer ones found in a part of it. Logits, not masks, are brought to
    the scan's voxels, in slabs, so that memory does not grow with depth. The probabilities, where asked for, are their
    softmax: the most probable is the label.
    """
    shape, values = volume.geometry.shape, torch.tensor([0, *names])
    merged = np.zeros(shape, dtype=np.uint16)
    probabilities = {value: np.zeros(shape, np.float16) for value in names if with_probabilities}
    step = max(1, SLAB_MIB * 2**18 // (len(values) * shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        rows = slice(start, min(start + step, shape[0]))
        slab = _slab(found, start, (rows.stop - rows.start, len(names), *shape[1:]))
        logits = torch.cat([torch.zeros_like(slab[:, :1]), slab], dim=1)
        merged[rows] = values[logits.argmax(dim=1)].numpy().astype(np.uint16)
        if with_probabilities:
            for stack, likely in zip(probabilities.values(), logits.softmax(dim=1)[:, 1:].unbind(1), strict=True):
                stack[rows] = likely.numpy()
    return LabelMap(merged, volume.geometry, dict(names)), probabilities


def _slab(found: Sequence[Found], start: int, shape: tuple[int, ...]) -> Tensor:
    """Return the logits (n, L, H, W) of slices from `start` on.

    A closer look counts twice in the mean probability: it sees more detail, but less of what lies around. Where it did
    not look, what the first one found stands: an organ that winds through the scan, or lesions here and there, reach
    beyond any window.
    """
    slab = torch.full(shape, -CLIP)
    found[0].put_into(slab, start)
    for closer in found[1:]:
        seen = torch.full(shape, torch.nan)
        closer.put_into(seen, start)
        mean = (slab.sigmoid() + CLOSER_WEIGHT * seen.sigmoid()) / (1 + CLOSER_WEIGHT)
        slab = torch.where(seen.isnan(), slab, mean.logit(eps=1e-4))
    return slab


def log_odds(found: Sequence[Found], volume: Volume, label: int, slices: slice) -> NDArray[np.float32]:
    """Return the logits (n, H, W) of label number `label` (its index, not its value) on some slices of the scan."""
    alone = [replace(each, logits=each.logits[:, label, None]) for each in found]
    _, height, width = volume.geometry.shape
    slab = _slab(alone, slices.start, (slices.stop - slices.start, 1, height, width))
    return np.asarray(slab[:, 0], np.float32)
