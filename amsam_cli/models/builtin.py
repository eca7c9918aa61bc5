"""The built-in network: the official SAM 2 modules around a small convolutional trunk.

A residual convolutional trunk, since on two processor cores it encodes a slice several times faster than a Hiera of the
same size and learns much sooner from synthetic data. Everything after the trunk is SAM 2's own, at half its width.
"""

from __future__ import annotations

import torch
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIZE = 256
WIDTHS = (40, 80, 160, 320)
BLOCKS = (2, 2, 3, 2)
MODEL_WIDTH = 128
MEMORY_WIDTH = 32
MEMORY_LAYERS = 2


def build_network() -> SAM2Base:
    """Return the built-in architecture with random weights: 128 channels, memories of 32, two memory layers.

    Its convolutions are channels last, as frames are encoded: none then turns its weights first, which takes an eighth
    of the time of a step.
    """
    network = SAM2Base(
        image_encoder=_image_encoder(),
        memory_attention=_memory_attention(),
        memory_encoder=_memory_encoder(),
        num_maskmem=7,
        image_size=IMAGE_SIZE,
        sigmoid_scale_for_mem_enc=20.0,
        sigmoid_bias_for_mem_enc=-10.0,
        use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True,
        use_high_res_features_in_sam=True,
        iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=True,
        add_tpos_enc_to_obj_ptrs=True,
        proj_tpos_enc_in_obj_ptrs=True,
        use_signed_tpos_enc_to_obj_ptrs=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        fixed_no_obj_ptr=True,
        use_mlp_for_obj_ptr_proj=True,
        no_obj_embed_spatial=True,
    )
    return network.eval().to(memory_format=torch.channels_last)


class ConvTrunk(nn.Module):
    """Residual convolutional trunk with strides 4, 8, 16 and 32, in the interface of SAM 2's `ImageEncoder`."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, blocks: tuple[int, ...] = BLOCKS) -> None:
        super().__init__()
        self.channel_list = list(reversed(widths))
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0] // 2, 3, stride=2, padding=1), nn.GELU(), Downsample(widths[0] // 2, widths[0])
        )
        self.stages = nn.ModuleList()
        previous = widths[0]
        for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            enter = [] if level == 0 else [Downsample(previous, width)]
            self.stages.append(nn.Sequential(*enter, *(ResidualBlock(width) for _ in range(count))))
            previous = width

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return maps at strides 4, 8, 16, 32 of `pixels` (B, 3, S, S)."""
        maps = []
        x = self.stem(pixels)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Downsample(nn.Sequential):
    """Halve the grid and change the width."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(nn.Conv2d(inside, outside, 3, stride=2, padding=1), _norm(outside))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = _norm(width)
        # Each block starts as the identity, which lets a deep trunk learn from the first step.
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the refined map, same shape."""
        residual = self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(x)))))
        return F.gelu(x + residual)


def _norm(width: int) -> nn.GroupNorm:
    """Return a norm that treats every image alone, so that a batch never changes a mask."""
    return nn.GroupNorm(8, width)


def _image_encoder() -> ImageEncoder:
    neck = FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=MODEL_WIDTH, normalize=True),
        d_model=MODEL_WIDTH,
        backbone_channel_list=list(reversed(WIDTHS)),
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    return ImageEncoder(trunk=ConvTrunk(), neck=neck, scalp=1)


def _memory_attention() -> MemoryAttention:
    grid = [IMAGE_SIZE // 16, IMAGE_SIZE // 16]
    layer = MemoryAttentionLayer(
        activation="relu",
        d_model=MODEL_WIDTH,
        dim_feedforward=4 * MODEL_WIDTH,
        dropout=0.0,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        self_attention=RoPEAttention(embedding_dim=MODEL_WIDTH, num_heads=1, feat_sizes=grid),
        cross_attention=RoPEAttention(
            embedding_dim=MODEL_WIDTH, num_heads=1, feat_sizes=grid, rope_k_repeat=True, kv_in_dim=MEMORY_WIDTH
        ),
    )
    return MemoryAttention(d_model=MODEL_WIDTH, pos_enc_at_input=True, layer=layer, num_layers=MEMORY_LAYERS)


def _memory_encoder() -> MemoryEncoder:
    return MemoryEncoder(
        in_dim=MODEL_WIDTH,
        out_dim=MEMORY_WIDTH,
        position_encoding=PositionEmbeddingSine(num_pos_feats=MEMORY_WIDTH, normalize=True),
        mask_downsampler=MaskDownSampler(kernel_size=3, stride=2, padding=1, embed_dim=MODEL_WIDTH),
        fuser=Fuser(CXBlock(dim=MODEL_WIDTH, layer_scale_init_value=1e-2), num_layers=2),
    )
