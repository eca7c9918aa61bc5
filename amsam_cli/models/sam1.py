"""SAM and MedSAM behind amsam's protocol, with the modules of the `segment-anything` package as they are.

Its builders fix the frame at 1024 px, so the network is composed here for any side; its decoder repeats one image for
many prompts, where amsam asks one prompt of each of many images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from amsam_cli.models.base import Decoded, Embedding, Frozen, Prompts, shrunk
from amsam_cli.models.precision import mixed_precision

PATCH = 16
PROMPT_WIDTH = 256
PRESENT = 10.0
"""The presence logit of a model that has no presence head."""

NOTHING, BOX_START, BOX_END = -1, 2, 3


@dataclass(frozen=True)
class Vit:
    """The size of an image encoder.

    Attributes:
        width: channels of a patch.
        depth: number of blocks.
        heads: attention heads of a block.
        global_blocks: the blocks that attend to the whole frame; the others attend within 14 x 14 patches.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]


VITS = {
    "vit-b": Vit(768, 12, 12, (2, 5, 8, 11)),
    "vit-l": Vit(1024, 24, 16, (5, 11, 17, 23)),
    "vit-h": Vit(1280, 32, 16, (7, 15, 23, 31)),
}

# What SAM subtracts and divides by, of pixels in [0, 255]; MedSAM was tuned on [0, 1] (Ma et al., 2024).
SAM_PIXELS = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
UNIT_PIXELS = ([0.0, 0.0, 0.0], [255.0, 255.0, 255.0])


def build_network(vit: Vit, image_size: int, *, unit_pixels: bool = False) -> Sam:
    """Return an official SAM with random weights for frames of `image_size` pixels, a multiple of 16.

    `unit_pixels` feeds the encoder pixels in [0, 1] as MedSAM does, instead of SAM's standardised ones.
    """
    grid = (image_size // PATCH, image_size // PATCH)
    encoder = ImageEncoderViT(
        img_size=image_size,
        patch_size=PATCH,
        embed_dim=vit.width,
        depth=vit.depth,
        num_heads=vit.heads,
        global_attn_indexes=vit.global_blocks,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        out_chans=PROMPT_WIDTH,
    )
    prompts = PromptEncoder(
        embed_dim=PROMPT_WIDTH, image_embedding_size=grid, input_image_size=(image_size, image_size), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=PROMPT_WIDTH, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(transformer_dim=PROMPT_WIDTH, transformer=transformer)
    mean, std = UNIT_PIXELS if unit_pixels else SAM_PIXELS
    return Sam(encoder, prompts, decoder, pixel_mean=mean, pixel_std=std).eval()


def resize_positions(state: Mapping[str, Tensor], network: Sam) -> dict[str, Tensor]:
    """Return `state` with the encoder's position tables resized to the frame side of `network`.

    The absolute table is resized bilinearly and the relative ones of the global blocks linearly, as the public runs of
    BLO-SAM do (Zhang et al., 2024). Tables of another width are left alone, to be refused as another architecture.
    """
    resized = dict(state)
    for key, wanted in network.image_encoder.state_dict(prefix="image_encoder.").items():
        table = state.get(key)
        if table is None or table.shape == wanted.shape or table.shape[-1] != wanted.shape[-1]:
            continue
        if key.endswith("pos_embed"):
            maps = table.float().permute(0, 3, 1, 2)
            resized[key] = F.interpolate(maps, size=wanted.shape[1:3], mode="bilinear").permute(0, 2, 3, 1)
        elif key.endswith(("rel_pos_h", "rel_pos_w")):
            line = table.float().T[None]
            resized[key] = F.interpolate(line, size=wanted.shape[0], mode="linear")[0].T
    return resized


class Sam1(Frozen):
    """`PromptableModel` over a `segment_anything.modeling.Sam`.

    Args:
        network: the official module, with a checkpoint loaded.
        name: what the user calls it.

    Always mask token 0, the one for a single unambiguous mask.
    """

    def __init__(self, network: Sam, name: str) -> None:
        super().__init__(network, name)
        self.is_plain = False
        self.image_size: int = network.image_encoder.img_size
        self.width: int = network.prompt_encoder.embed_dim

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Embedding:
        """Return features of `pixels` (B, 3, S, S) in [0, 1]; no gradients."""
        return self.embed(pixels)

    def embed(self, pixels: Tensor) -> Embedding:
        """Return what `encode` returns, with gradients: for encoder tuning."""
        network = self._network
        frame = shrunk(pixels)
        if not self.is_plain:
            pixels = (255.0 * pixels - network.pixel_mean) / network.pixel_std
        with mixed_precision(self.device):
            features = network.image_encoder(pixels)
        return Embedding(features.float(), (frame,))

    def decode(self, embedding: Embedding, prompts: Prompts) -> Decoded:
        """Return one mask per row; row i of `prompts` asks row i of `embedding`.

        SAM has no padding that its decoder ignores, so rows with equal numbers of points and boxes are decoded
        together: what a row gets never depends on its neighbours.
        """
        prompts, groups = _group(prompts)
        parts, places = [], []
        for points, boxed, rows in groups:
            parts.append(self._decode_alike(embedding.rows(rows), prompts.rows(rows), points, boxed=boxed))
            places.append(rows)
        return Decoded.cat(parts).rows(torch.cat(places).argsort())

    def no_prompt(self) -> Tensor:
        """Return SAM's `no_mask_embed`, (C,)."""
        embedding: Tensor = self._network.prompt_encoder.no_mask_embed.weight[0]
        return embedding

    def adaptable(self) -> Mapping[str, nn.Module]:
        """Return the parts LoRA may touch."""
        return {"decoder": self._network.mask_decoder, "encoder": self._network.image_encoder}

    def _decode_alike(self, embedding: Embedding, prompts: Prompts, points: int, *, boxed: bool) -> Decoded:
        """Return masks of rows that begin with `points` points, then, if `boxed`, the corners of a box."""
        network = self._network
        dense = self.no_prompt()[None] if prompts.dense is None else prompts.dense
        masks, scores = network.mask_decoder.predict_masks(
            # The decoder would repeat B images B times; but it only ever adds images and dense prompts up, so an
            # empty image and the sum as the dense prompt decode each row once.
            image_embeddings=torch.zeros_like(embedding.features[:1]),
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self._sparse(prompts, points, boxed=boxed),
            dense_prompt_embeddings=embedding.features + dense[:, :, None, None],
        )
        if prompts.channel is not None:
            return Decoded.of_channels(masks, prompts.channel)
        presence = torch.full_like(scores[:, 0], PRESENT)
        return Decoded(masks[:, :1], scores[:, 0], presence)

    def _sparse(self, prompts: Prompts, points: int, *, boxed: bool) -> Tensor:
        """Return the prompt tokens (B, T, C) as SAM's own predictor would make them; none without points and box."""
        if not points and not boxed:
            return prompts.points.new_zeros(len(prompts), 0, self.width)
        clicks = (prompts.points[:, :points], prompts.point_labels[:, :points]) if points else None
        box = prompts.points[:, points : points + 2].flatten(1) if boxed else None
        sparse: Tensor = self._network.prompt_encoder(points=clicks, boxes=box, masks=None)[0]
        return sparse


def _group(prompts: Prompts) -> tuple[Prompts, list[tuple[int, bool, Tensor]]]:
    """Return the prompts with clicks first, then box corners, then padding, and which rows are alike.

    Each group is (number of clicks, whether there is a box, its rows).
    """
    labels = prompts.point_labels
    order = torch.where(labels == NOTHING, BOX_END + 1, labels.clamp(min=BOX_START - 1)).argsort(dim=1, stable=True)
    labels = labels.gather(1, order)
    points = prompts.points.gather(1, order[..., None].expand(-1, -1, 2))
    clicks = ((labels >= 0) & (labels < BOX_START)).sum(1)
    boxes = (labels == BOX_START).sum(1)
    if not torch.equal(boxes, (labels == BOX_END).sum(1)) or bool((boxes > 1).any()):
        raise ValueError("a row of prompts has at most one box, with both its corners")
    kind = 2 * clicks + boxes
    groups = [(n // 2, n % 2 == 1, (kind == n).nonzero()[:, 0]) for n in sorted(set(kind.tolist()))]
    return replace(prompts, points=points, point_labels=labels), groups
