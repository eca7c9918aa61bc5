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

from amsam_cli.models.attention import Addend, added_to_scores
from amsam_cli.models.base import Bias, Decoded, Embedding, Frozen, Memory, Prompts, shrunk
from amsam_cli.models.batching import is_wide
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
NOT_HERE = -1024.0
"""SAM 2's logit of a mask whose object is absent."""


def build_network(architecture: str) -> SAM2Base:
    """Return an official SAM 2.1 network with random weights.

    `architecture` is a key of `CONFIGS`. Post-processing is off: no hole filling, no switching to another mask token,
    so that the mask that is trained is the mask that is used.
    """
    return build_sam2(CONFIGS[architecture], device="cpu", apply_postprocessing=False)


class Sam2(Frozen):
    """`MemoryModel` over a `SAM2Base`.

    Args:
        network: the official module, built-in or with a checkpoint loaded.
        name: what the user calls it.
        image_size: frame side S in pixels, a multiple of 32; position codes follow it.

    Always mask token 0: the one LoRA and the calibration head tune. The presence score is returned, never applied:
    SAM 2 sets the logits of absent objects to -1024, which cuts gradients and poisons averages.
    """

    def __init__(self, network: SAM2Base, name: str, image_size: int) -> None:
        super().__init__(network, name)
        self.is_plain = False
        self.width: int = network.hidden_dim
        self.set_image_size(image_size)
        device = network.device
        self._mean = torch.tensor(PIXEL_MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(PIXEL_STD, device=device).view(1, 3, 1, 1)

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
        frame = shrunk(pixels)
        with mixed_precision(self.device):
            if not self.is_plain:
                pixels = (pixels - self._mean.to(pixels.device)) / self._std.to(pixels.device)
            out = self._network.forward_image(pixels.contiguous(memory_format=torch.channels_last))
        *detail, features = out["backbone_fpn"]
        return Embedding(features.float(), (*(level.float() for level in detail), frame))

    def decode(self, embedding: Embedding, prompts: Prompts) -> Decoded:
        """Return one mask per row from the image and its prompts alone, without memory."""
        no_memory = self._network.no_mem_embed.view(1, -1, 1, 1)
        return self._decode(embedding.features + no_memory, _for_decoder(embedding), prompts)

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
        mask, pointer, presence = self._objects(embedding, mask)
        return Memory(self._map(embedding, 20.0 * mask - 10.0, presence), pointer, _shrink(mask, embedding))

    def pointer(self, embedding: Embedding, mask: Tensor) -> Tensor:
        """Return the pointers (B, C) of what `remember` returns, alone."""
        return self._objects(embedding, mask)[1]

    def _objects(self, embedding: Embedding, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return masks, empty where nothing exceeds one half, with their pointers (B, C) and presence (B, 1)."""
        mask = mask.float()
        present = (mask.amax(dim=(1, 2, 3), keepdim=True) > 0.5).float()
        mask = mask * present
        with mixed_precision(self.device):
            *_, pointer, presence = self._network._use_mask_as_output(
                embedding.features, list(_for_decoder(embedding)) or None, mask
            )
        return mask, pointer.float(), presence

    def keep(self, embedding: Embedding, answer: Decoded) -> Memory:
        """Return the memory of frames with the masks just decoded on them, as SAM 2's own tracking does.

        The pointer is that of the answer, where `remember` decodes once more to get one.
        """
        parts = self._parts(len(embedding))
        return Memory.cat([self._keep(embedding.rows(part), answer.rows(part)) for part in parts])

    def _keep(self, embedding: Embedding, answer: Decoded) -> Memory:
        present = (answer.presence > 0).float()[:, None]
        assert answer.pointer is not None
        pointer = present * answer.pointer + (1 - present) * self._network.no_obj_ptr
        logits = torch.where(present[..., None, None] > 0, answer.logits, NOT_HERE)
        side = (self.image_size, self.image_size)
        fine = F.interpolate(logits, size=side, mode="bilinear", align_corners=False)
        return Memory(self._map(embedding, fine, answer.presence[:, None]), pointer, _shrink(fine.sigmoid(), embedding))

    def _map(self, embedding: Embedding, logits: Tensor, presence: Tensor) -> Tensor:
        """Return the memory map (B, Cm, h, w) of frames with mask logits (B, 1, S, S)."""
        with mixed_precision(self.device):
            memory, _ = self._network._encode_new_memory(
                [_tokens(embedding.features)],
                [embedding.features.shape[-2:]],
                logits,
                presence,
                is_mask_from_pts=False,
            )
        return memory.float()  # type: ignore[no-any-return]

    def recall(
        self,
        embedding: Embedding,
        bank: Sequence[Memory],
        prompts: Prompts | None = None,
        *,
        bias: Bias | None = None,
    ) -> Decoded:
        """Return masks decoded after memory attention over `bank`, in the order given.

        Rows do not see each other, so on a processor those of wide frames go one by one (`models/batching.py`); a
        `bias` knows all rows of its batch, which then go together.
        """
        if prompts is None:
            prompts = Prompts.empty(len(embedding), device=self.device)
        if bias is not None:
            return self._recall(embedding, bank, prompts, bias)
        return Decoded.cat(
            [
                self._recall(embedding.rows(part), [memory.rows(part) for memory in bank], prompts.rows(part), None)
                for part in self._parts(len(embedding))
            ]
        )

    def _parts(self, rows: int) -> list[slice]:
        """Return which rows go through memory together: wide frames alone, as their tokens then lie side by side."""
        size = 1 if is_wide(self.device, self.image_size) else rows
        return [slice(start, start + size) for start in range(0, rows, size)]

    def _recall(self, embedding: Embedding, bank: Sequence[Memory], prompts: Prompts, bias: Bias | None) -> Decoded:
        features = self._attend(embedding.features, bank, bias)
        return self._decode(features, _for_decoder(embedding), prompts)

    def _attend(self, features: Tensor, bank: Sequence[Memory], bias: Bias | None) -> Tensor:
        """Return `features` (B, C, h, w) conditioned on the bank."""
        network = self._network
        mapped = [memory for memory in bank if memory.age < network.num_maskmem]
        tokens, codes = zip(*(self._memory_tokens(memory) for memory in mapped), strict=True)
        pointers, pointer_codes = self._pointer_tokens(bank)
        addend = self._addend(bank, mapped, bias)
        with mixed_precision(self.device), added_to_scores(network.memory_attention, addend):
            attended: Tensor = network.memory_attention(
                curr=[_tokens(features)],
                curr_pos=[_tokens(network.image_encoder.neck.position_encoding(features))],
                memory=torch.cat([*tokens, pointers]),
                memory_pos=torch.cat([*codes, pointer_codes]),
                num_obj_ptr_tokens=pointers.shape[0],
            )
        return attended.float().permute(1, 2, 0).reshape(features.shape)

    def _addend(self, bank: Sequence[Memory], mapped: Sequence[Memory], bias: Bias | None) -> Addend | None:
        """Return what to add to the scores: the bias, and minus infinity where a row lacks a memory."""
        missing = self._missing(bank, mapped)
        if bias is None:
            return None if missing is None else lambda queries, keys: missing
        given, spans, start = bias, [], 0
        for memory in mapped:
            length = memory.map.shape[-2] * memory.map.shape[-1]
            spans.append((memory, slice(start, start + length)))
            start += length
        if missing is None:
            return lambda queries, keys: given(queries, keys, spans)
        return lambda queries, keys: given(queries, keys, spans) + missing

    def _missing(self, bank: Sequence[Memory], mapped: Sequence[Memory]) -> Tensor | None:
        """Return minus infinity at the keys a row must not see, (B, 1, M); None where every row has every memory."""
        if all(memory.there is None for memory in bank):
            return None
        pieces = self.width // self._network.mem_dim
        lengths = [(memory, memory.map.shape[-2] * memory.map.shape[-1]) for memory in mapped]
        lengths += [(memory, pieces) for memory in bank]
        columns = []
        for memory, length in lengths:
            everywhere = torch.ones(len(memory), dtype=torch.bool, device=memory.map.device)
            there = everywhere if memory.there is None else memory.there
            columns.append(there[:, None].expand(-1, length))
        seen = torch.cat(columns, dim=1)
        return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -torch.inf)[:, None]

    def _memory_tokens(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """Return the spatial tokens (hw, B, Cm) of one memory and their place-and-age code."""
        slot = (memory.age or self._network.num_maskmem) - 1
        code = _tokens(self._network.memory_encoder.position_encoding(memory.map))
        return _tokens(memory.map), code + self._network.maskmem_tpos_enc[slot]

    def _pointer_tokens(self, bank: Sequence[Memory]) -> tuple[Tensor, Tensor]:
        """Return the object pointers of the bank as tokens (P * C/Cm, B, Cm) and the code of their distance."""
        network = self._network
        pieces = self.width // network.mem_dim
        pointers = torch.stack([memory.pointer for memory in bank])  # (P, B, C)
        count, batch, _ = pointers.shape
        tokens = pointers.view(count, batch, pieces, -1).transpose(1, 2).flatten(0, 1)
        known = [memory.age or 1 if memory.distance is None else memory.distance for memory in bank]
        away = torch.tensor(known, device=pointers.device) / (network.max_obj_ptrs_in_encoder - 1)
        code = network.obj_ptr_tpos_proj(get_1d_sine_pe(away, dim=self.width))
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
            masks, scores, tokens, presence = network.sam_mask_decoder.predict_masks(
                image_embeddings=features,
                image_pe=network.sam_prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                repeat_image=False,
                high_res_features=list(detail) or None,
            )
            pointer = network.obj_ptr_proj(tokens[:, 0]).float()
        if prompts.channel is not None:
            return Decoded.of_channels(masks, prompts.channel, pointer)
        return Decoded(masks[:, :1].float(), scores[:, 0].float(), presence[:, 0].float(), pointer)


def _for_decoder(embedding: Embedding) -> tuple[Tensor, ...]:
    """Return the finer maps that the network made: all but the frame."""
    return embedding.detail[:-1]


def _tokens(maps: Tensor) -> Tensor:
    """Return maps (B, C, h, w) as a sequence (hw, B, C)."""
    return maps.flatten(2).permute(2, 0, 1)


def _shrink(mask: Tensor, embedding: Embedding) -> Tensor:
    """Return masks (B, 1, S, S) on the grid of the features."""
    height, width = embedding.features.shape[-2:]
    return F.interpolate(mask, size=(height, width), mode="bilinear", antialias=True)
