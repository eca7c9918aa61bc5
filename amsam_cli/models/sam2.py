"""SAM 2 behind amsam's protocol: drives the official `SAM2Base`, not its video predictor.

Volumes need soft masks, memories from other patients, two directions, many labels in one batch and gradients; the
predictor offers none of these. Every network of the family passes here: SAM 2.1 in four sizes, MedSAM2, the built-in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from sam2.build_sam import build_sam2
from sam2.modeling.sam2_base import SAM2Base
from sam2.modeling.sam2_utils import get_1d_sine_pe
from torch import Tensor, nn
from torch.nn import functional as F

from amsam_cli.models.base import Decoded, Embedding, Memory, Prompts
from amsam_cli.models.precision import mixed_precision

CONFIGS = {
    "sam2.1-tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "sam2.1-small": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "sam2.1-base-plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "sam2.1-large": "configs/sam2.1/sam2.1_hiera_l.yaml",
    # MedSAM2 fine-tuned the tiny SAM 2.1 at 512 px: same modules, same keys.
    "medsam2": "configs/sam2.1/sam2.1_hiera_t.yaml",
}
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


def build_network(architecture: str) -> SAM2Base:
    """Return an official SAM 2.1 network with random weights.

    `architecture` is a key of `CONFIGS`. Post-processing is off: no hole filling, no switching to another mask token,
    so that the mask that is trained is the mask that is used.
    """
    return build_sam2(CONFIGS[architecture], device="cpu", apply_postprocessing=False)


class Sam2:
    """`MemoryModel` over a `SAM2Base`.

    Args:
        network: the official module, built-in or with a checkpoint loaded.
        name: what the user calls it.
        image_size: frame side S in pixels, a multiple of 32; position codes follow it.

    Always mask token 0: the one LoRA and the calibration head tune. The presence score is returned, never applied:
    SAM 2 sets the logits of absent objects to -1024, which cuts gradients and poisons averages.
    """

    def __init__(self, network: SAM2Base, name: str, image_size: int) -> None:
        self._network = network.eval().requires_grad_(False)
        self.name = name
        self.width: int = network.hidden_dim
        self.set_image_size(image_size)
        device = network.device
        self._mean = torch.tensor(PIXEL_MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(PIXEL_STD, device=device).view(1, 3, 1, 1)

    @property
    def network(self) -> nn.Module:
        """The whole official network."""
        network: nn.Module = self._network
        return network

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def set_image_size(self, image_size: int) -> None:
        """Change the frame side; weights stay, position codes are made for the new grid."""
        grid = image_size // self._network.backbone_stride
        self.image_size = image_size
        self._network.image_size = image_size
        self._network.sam_image_embedding_size = grid
        encoder = self._network.sam_prompt_encoder
        encoder.image_embedding_size = (grid, grid)
        encoder.input_image_size = (image_size, image_size)
        encoder.mask_input_size = (4 * grid, 4 * grid)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Embedding:
        """Return features of `pixels` (B, 3, S, S) in [0, 1]; no gradients."""
        return self.embed(pixels)

    def embed(self, pixels: Tensor) -> Embedding:
        """Return what `encode` returns, with gradients: for pretraining and encoder tuning."""
        with mixed_precision(self.device):
            pixels = ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
            out = self._network.forward_image(pixels)
        *detail, features = out["backbone_fpn"]
        return Embedding(features.float(), tuple(level.float() for level in detail))

    def decode(self, embedding: Embedding, prompts: Prompts) -> Decoded:
        """Return one mask per row from the image and its prompts alone, without memory."""
        no_memory = self._network.no_mem_embed.view(1, -1, 1, 1)
        return self._decode(embedding.features + no_memory, embedding.detail, prompts)

    def no_prompt(self) -> Tensor:
        """Return SAM's `no_mask_embed`, (C,)."""
        embedding: Tensor = self._network.sam_prompt_encoder.no_mask_embed.weight[0]
        return embedding

    def adaptable(self) -> Mapping[str, nn.Module]:
        """Return the parts LoRA may touch."""
        return {
            "decoder": self._network.sam_mask_decoder,
            "encoder": self._network.image_encoder,
            "memory": self._network.memory_attention,
        }

    def remember(self, embedding: Embedding, mask: Tensor) -> Memory:
        """Return the memory of frames with masks (B, 1, S, S) in [0, 1].

        A mask that nowhere exceeds one half is remembered as "not here".
        """
        mask = mask.float()
        present = (mask.amax(dim=(1, 2, 3), keepdim=True) > 0.5).float()
        mask = mask * present
        with mixed_precision(self.device):
            *_, pointer, presence = self._network._use_mask_as_output(
                embedding.features, list(embedding.detail) or None, mask
            )
            grid = embedding.features.shape[-2:]
            memory, _ = self._network._encode_new_memory(
                [_tokens(embedding.features)], [grid], 20.0 * mask - 10.0, presence, is_mask_from_pts=False
            )
        small = F.interpolate(mask, size=tuple(grid), mode="bilinear", antialias=True)
        return Memory(memory.float(), pointer.float(), small)

    def recall(self, embedding: Embedding, bank: Sequence[Memory], prompts: Prompts | None = None) -> Decoded:
        """Return masks decoded after memory attention over `bank`, in the order given."""
        if prompts is None:
            prompts = Prompts.empty(len(embedding), device=self.device)
        features = self._attend(embedding.features, bank)
        return self._decode(features, embedding.detail, prompts)

    def _attend(self, features: Tensor, bank: Sequence[Memory]) -> Tensor:
        """Return `features` (B, C, h, w) conditioned on the bank."""
        network = self._network
        tokens, codes = zip(*(self._memory_tokens(memory) for memory in bank), strict=True)
        pointers, pointer_codes = self._pointer_tokens(bank)
        with mixed_precision(self.device):
            attended: Tensor = network.memory_attention(
                curr=[_tokens(features)],
                curr_pos=[_tokens(network.image_encoder.neck.position_encoding(features))],
                memory=torch.cat([*tokens, pointers]),
                memory_pos=torch.cat([*codes, pointer_codes]),
                num_obj_ptr_tokens=pointers.shape[0],
            )
        return attended.float().permute(1, 2, 0).reshape(features.shape)

    def _memory_tokens(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return the spatial tokens (hw, B, Cm) of one memory and their place-and-age code."""
        last = self._network.num_maskmem - 1
        slot = last if memory.age == 0 else min(memory.age, last) - 1
        code = _tokens(self._network.memory_encoder.position_encoding(memory.map))
        return _tokens(memory.map), code + self._network.maskmem_tpos_enc[slot]

    def _pointer_tokens(self, bank: Sequence[Memory]) -> tuple[Tensor, Tensor]:
        """Return the object pointers of the bank as tokens (P * C/Cm, B, Cm) and their age code.

        Supports are coded as one frame away: they are other patients' slices, so no true distance exists.
        """
        network = self._network
        pieces = self.width // network.mem_dim
        pointers = torch.stack([memory.pointer for memory in bank])  # (P, B, C)
        count, batch, _ = pointers.shape
        tokens = pointers.view(count, batch, pieces, -1).transpose(1, 2).flatten(0, 1)
        ages = torch.tensor([max(memory.age, 1) for memory in bank], device=pointers.device)
        far = network.max_obj_ptrs_in_encoder - 1
        code = network.obj_ptr_tpos_proj(get_1d_sine_pe(ages.clamp(max=far) / far, dim=self.width))
        return tokens, code[:, None].expand(-1, batch, -1).repeat_interleave(pieces, dim=0)

    def _decode(self, features: Tensor, detail: tuple[Tensor, ...], prompts: Prompts) -> Decoded:
        """Return masks of `features`, conditioned on memory or not."""
        network = self._network
        sparse, dense = network.sam_prompt_encoder(
            points=(prompts.points, prompts.point_labels), boxes=None, masks=None
        )
        if prompts.dense is not None:
            dense = prompts.dense[:, :, None, None].expand_as(dense)
        with mixed_precision(self.device):
            masks, scores, _, presence = network.sam_mask_decoder(
                image_embeddings=features,
                image_pe=network.sam_prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
                repeat_image=False,
                high_res_features=list(detail) or None,
            )
        return Decoded(masks.float(), scores[:, 0].float(), presence[:, 0].float())


def _tokens(maps: Tensor) -> Tensor:
    """Return maps (B, C, h, w) as a sequence (hw, B, C)."""
    return maps.flatten(2).permute(2, 0, 1)
