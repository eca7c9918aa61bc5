"""DINOv2 as what reads frames for priors (FSSAM's PPG), beside the model that segments them.

Its weights come from the cache of the package `transformers`, which is never asked to download anything.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.errors import WeightsError
from amsam_cli.models.base import Embedding, Frozen
from amsam_cli.models.precision import mixed_precision
from amsam_cli.models.sam2 import PIXEL_MEAN, PIXEL_STD

PUBLISHED = "facebook/dinov2-base"
IMAGE_SIZE = 560
"""As in FSSAM: a grid of 40 x 40 patches of 14 px."""


class Dinov2(Frozen):
    """Patch features of frames; nothing that could segment.

    Args:
        network: a `transformers.Dinov2Model`.
        name: what an adapter records.
        image_size: side that frames are brought to, a multiple of the patch.
    """

    def __init__(self, network: Any, name: str = PUBLISHED, image_size: int = IMAGE_SIZE) -> None:
        super().__init__(network, name)
        self.image_size = image_size

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Embedding:
        """Return the last layer's patch tokens of `pixels` (B, 3, S, S) in [0, 1], as maps (B, C, h, w)."""
        mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
        size = (self.image_size, self.image_size)
        frames = F.interpolate((pixels - mean) / std, size=size, mode="bilinear", antialias=True, align_corners=False)
        with mixed_precision(self.device):
            tokens = self._network(pixel_values=frames).last_hidden_state[:, 1:].float()
        side = round(tokens.shape[1] ** 0.5)
        return Embedding(tokens.mT.reshape(len(tokens), -1, side, side))


@cache
def load_reader(device: str = "cpu", *, source: str = PUBLISHED, image_size: int = IMAGE_SIZE) -> Dinov2:
    """Return DINOv2 from the cache, or from a folder.

    Raises:
        WeightsError: `transformers` is not installed, or its cache lacks the weights.
    """
    try:
        from transformers import Dinov2Model
    except ImportError as err:
        raise WeightsError("DINOv2 needs the package transformers.", "pip install 'amsam[dinov2]'") from err
    try:
        network = Dinov2Model.from_pretrained(source, local_files_only=True)
    except OSError as err:
        message = f"The weights of '{source}' are not in the cache of transformers."
        raise WeightsError(message, f"Fetch them where there is a network: hf download {source}") from err
    return Dinov2(network.to(device), PUBLISHED, image_size)
