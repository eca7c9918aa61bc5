"""A memory model of about a thousand weights: SAM in miniature, for tests that need a model but not its weight.

Put together so that it is of use before any training: prompts move the mask, and a recalled memory paints its own where
the query looks alike. A hundred steps of tuning teach its decoder to find a bright disc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amsam_cli.models.base import Bias, Decoded, Embedding, Memory, Prompts, shrunk

WIDTH = 8
MEMORY_WIDTH = 4
RECALLED, GROUND = 0, 1
"""The feature channel in which a recalled mask is painted; the upscaled channel that is the same everywhere."""


class ToyModel:
    """`MemoryModel` over a `ToyNetwork`; the same `seed` gives the same weights."""

    def __init__(self, image_size: int = 64, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._network = ToyNetwork().eval().requires_grad_(False)
        self.name = "toy"
        self.image_size = image_size
        self.width = WIDTH

    @property
    def network(self) -> nn.Module:
        return self._network

    @property
    def device(self) -> torch.device:
        return next(self._network.parameters()).device

    def set_image_size(self, image_size: int) -> None:
        self.image_size = image_size

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Embedding:
        return self.embed(pixels)

    def embed(self, pixels: Tensor) -> Embedding:
        return self._network.image_encoder(pixels)

    def decode(self, embedding: Embedding, prompts: Prompts) -> Decoded:
        dense = self.no_prompt()[None] if prompts.dense is None else prompts.dense
        tokens = self._network.prompt_encoder(prompts.points / self.image_size, prompts.point_labels)
        masks, score, presence = self._network.mask_decoder.predict_masks(embedding, tokens, dense[:, :, None, None])
        if prompts.channel is not None:
            return Decoded.of_channels(masks, prompts.channel)
        return Decoded(masks[:, :1], score, presence)

    def no_prompt(self) -> Tensor:
        return self._network.no_mask_embed.weight[0]

    def adaptable(self) -> Mapping[str, nn.Module]:
        network = self._network
        return {
            "decoder": network.mask_decoder,
            "encoder": network.image_encoder,
            "memory": network.memory_attention,
        }

    def remember(self, embedding: Embedding, mask: Tensor) -> Memory:
        small = F.interpolate(mask, size=embedding.features.shape[-2:], mode="area")
        weight = small / small.sum((2, 3), keepdim=True).clamp(min=1e-6)
        return Memory(
            map=self._network.memory_encoder(embedding.features),
            pointer=(embedding.features * weight).sum((2, 3)),
            mask=small,
        )

    def pointer(self, embedding: Embedding, mask: Tensor) -> Tensor:
        return self.remember(embedding, mask).pointer

    def keep(self, embedding: Embedding, answer: Decoded) -> Memory:
        side = (self.image_size, self.image_size)
        mask = F.interpolate(answer.logits, size=side, mode="bilinear").sigmoid()
        return self.remember(embedding, mask * (answer.presence > 0).view(-1, 1, 1, 1))

    def recall(
        self,
        embedding: Embedding,
        bank: Sequence[Memory],
        prompts: Prompts | None = None,
        *,
        bias: Bias | None = None,
    ) -> Decoded:
        painted = self._network.memory_attention(self._network.memory_encoder(embedding.features), bank, bias)
        channel = F.one_hot(torch.tensor(RECALLED), WIDTH).to(painted).view(1, -1, 1, 1)
        features = embedding.features + channel * painted
        if prompts is None:
            prompts = Prompts.empty(len(embedding), device=self.device)
        return self.decode(Embedding(features, embedding.detail), prompts)


class ToyNetwork(nn.Module):
    """The parts under the names they have in SAM 2."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = ToyEncoder()
        self.prompt_encoder = ToyPromptEncoder()
        self.no_mask_embed = nn.Embedding(1, WIDTH)
        self.no_mask_embed.weight.data.mul_(0.1)
        self.mask_decoder = ToyDecoder()
        self.memory_encoder = nn.Conv2d(WIDTH, MEMORY_WIDTH, 1)
        self.memory_attention = ToyMemoryAttention()


class ToyEncoder(nn.Module):
    """Brightness and texture at stride 4 (detail) and 16 (features); channel `RECALLED` stays empty."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.deep = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, pixels: Tensor) -> Embedding:
        detail = torch.tanh(self.stem(2 * pixels - 1))
        features = torch.tanh(self.deep(F.avg_pool2d(detail, 4)))
        keep = torch.ones(WIDTH, device=pixels.device)
        keep[RECALLED] = 0
        return Embedding(features * keep.view(1, -1, 1, 1), (detail, shrunk(pixels)))


class ToyPromptEncoder(nn.Module):
    """Points as tokens: a random Fourier code of the place plus an embedding of the label."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, WIDTH // 2))
        self.labels = nn.Embedding(5, WIDTH)

    def code(self, places: Tensor) -> Tensor:
        """Return the code (…, C) of places (…, 2), xy in [0, 1]."""
        angle = 2 * torch.pi * (2 * places - 1) @ self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def forward(self, places: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, N, C) and which are real, (B, N)."""
        return self.code(places) + self.labels(labels.long() + 1), labels >= 0


class ToyAttention(nn.Module):
    """One-headed attention with the projections LoRA looks for; an empty token stands in for missing ones."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.k_proj = nn.Linear(WIDTH, WIDTH)
        self.v_proj = nn.Linear(WIDTH, WIDTH)
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, queries: Tensor, tokens: Tensor, real: Tensor | None = None) -> Tensor:
        scores = self.q_proj(queries) @ self.k_proj(tokens).mT / WIDTH**0.5
        if real is not None:
            scores = scores.masked_fill(~real[:, None], -torch.inf)
        return self.out_proj(scores.softmax(-1) @ self.v_proj(tokens))


class ToyTransformer(nn.Module):
    """Image to prompt tokens, then mask token to image."""

    def __init__(self) -> None:
        super().__init__()
        self.cross_attn_image_to_token = ToyAttention()
        self.final_attn_token_to_image = ToyAttention()

    def forward(self, image: Tensor, mask_token: Tensor, tokens: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.cat([mask_token, tokens], dim=1)
        real = torch.cat([real.new_ones(mask_token.shape[:2]), real], dim=1)
        image = image + self.cross_attn_image_to_token(image, tokens, real)
        return image, mask_token + self.final_attn_token_to_image(mask_token, image)


class ToyDecoder(nn.Module):
    """SAM's mask decoder in miniature: the mask is the product of a hypernetwork and an upscaled image."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = ToyTransformer()
        self.num_mask_tokens = 1
        self.mask_tokens = nn.Embedding(1, WIDTH)
        self.output_upscaling = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.GELU())
        self.output_hypernetworks_mlps = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])
        self.iou_prediction_head = nn.Linear(WIDTH, 1)
        self.pred_obj_score_head = nn.Linear(WIDTH, 1)
        self._start_useful()

    def _start_useful(self) -> None:
        """Let the recalled channel pass straight through to the mask, on a negative ground; the rest only whispers."""
        convolution, hyper = self.output_upscaling[0], self.output_hypernetworks_mlps[0]
        with torch.no_grad():
            hyper.weight.mul_(0.3)
            hyper.bias.zero_()
            convolution.weight[[RECALLED, GROUND]] = 0
            convolution.weight[RECALLED, RECALLED] = 4
            convolution.bias[RECALLED] = 0
            convolution.bias[GROUND] = 1
            hyper.bias[RECALLED] = 2
            hyper.bias[GROUND] = -1

    def predict_masks(
        self, embedding: Embedding, prompt: tuple[Tensor, Tensor], dense: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return masks, scores and presence, from the method that SAM's decoders have too."""
        source = embedding.features + dense
        tokens, real = prompt
        start = self.mask_tokens.weight[None].expand(len(source), -1, -1)
        image, token = self.transformer(source.flatten(2).mT + _places(source), start, tokens, real)
        image = image.mT.reshape(source.shape)
        detail = embedding.detail[0]
        fine = F.interpolate(image, size=detail.shape[-2:], mode="bilinear") + _without_recalled(detail)
        upscaled = self.output_upscaling(fine)
        hyper = torch.stack([mlp(token[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        masks = torch.einsum("btc,bchw->bthw", hyper, upscaled)
        score = self.iou_prediction_head(token[:, 0])[:, 0].sigmoid()
        return masks, score, 2 + self.pred_obj_score_head(token[:, 0])[:, 0]


class ToyMemoryAttention(nn.Module):
    """Where the query looks like a remembered place, it gets that place's mask."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(MEMORY_WIDTH, MEMORY_WIDTH, bias=False)
        nn.init.eye_(self.q_proj.weight)

    def forward(self, query: Tensor, bank: Sequence[Memory], bias: Bias | None) -> Tensor:
        """Return the recalled mask (B, 1, h, w) in [0, 1] for queries (B, Cm, h, w)."""
        queries = self.q_proj(query.flatten(2).mT)
        keys = torch.cat([memory.map.flatten(2).mT for memory in bank], dim=1)
        values = torch.cat([memory.mask.flatten(2).mT for memory in bank], dim=1)
        ages = torch.cat([torch.full(memory.map.shape[-2:], float(memory.age)).flatten() for memory in bank])
        near = -1000 * torch.cdist(queries, keys).square() - 0.2 * ages.to(queries)
        length = query.shape[-2] * query.shape[-1]
        spans = [(memory, slice(i * length, (i + 1) * length)) for i, memory in enumerate(bank)]
        for memory, span in spans:
            if memory.there is not None:
                near[:, :, span] = near[:, :, span].masked_fill(~memory.there[:, None, None], -torch.inf)
        if bias is not None:
            near = near + bias(queries, keys, spans)
        return (near.softmax(-1) @ values).mT.reshape(len(query), 1, *query.shape[-2:])


def _places(maps: Tensor) -> Tensor:
    """Return a code of each grid place, (1, hw, C)."""
    height, width = maps.shape[-2:]
    y = torch.linspace(-1, 1, height, device=maps.device)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width, device=maps.device)[None].expand(height, width)
    waves = [f * axis for axis in (x, y) for f in (1, 2)]
    code = torch.stack([g(wave) for wave in waves for g in (torch.sin, torch.cos)], dim=-1)
    code[..., RECALLED] = 0
    return 0.2 * code.flatten(0, 1)[None]


def _without_recalled(maps: Tensor) -> Tensor:
    keep = torch.ones(maps.shape[1], device=maps.device)
    keep[RECALLED] = 0
    return maps * keep.view(1, -1, 1, 1)


def disc_frames(count: int, *, image_size: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return `count` frames (B, 3, S, S) of a bright disc on noise and their masks (B, 1, S, S), 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    center = (0.3 + 0.4 * torch.rand(count, 2, generator=generator)) * image_size
    radius = (0.15 + 0.1 * torch.rand(count, generator=generator)) * image_size
    axis = torch.arange(image_size) + 0.5
    squared = (axis[None, :, None] - center[:, 1, None, None]) ** 2 + (axis[None, None] - center[:, 0, None, None]) ** 2
    masks = (squared < radius[:, None, None] ** 2).float()[:, None]
    noise = 0.1 * torch.rand(count, 1, image_size, image_size, generator=generator)
    return (0.2 + 0.5 * masks + noise).expand(-1, 3, -1, -1).contiguous(), masks
