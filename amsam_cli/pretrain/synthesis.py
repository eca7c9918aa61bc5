"""Episodes for in-context learning: supports with masks and queries, rendered from anatomies in random looks.

One anatomy is seen in several differently deformed, differently textured "patients", or in neighbouring slices of one.
Contrast, texture, bias, blur, resolution and noise are drawn at random (Billot et al., SynthSeg, 2023), so that what is
learned is "the thing shown in the supports", not any organ or scanner. Knows torch only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from amsam_cli.pretrain.anatomy import smooth_noise, uniform
from amsam_cli.pretrain.lesions import ADDED, with_lesions
from amsam_cli.pretrain.parts import Part

TISSUES = 14
"""Labels of one episode at most: twelve of its anatomy, and the two parts of a lesion."""
PATIENT_SHIFT = 0.25
"""How far apart the brightness of a tissue may lie in the patients of one episode, as a standard deviation, at most."""
ALIKE = 0.35
"""Share of the episodes in which other labels look as the target does."""
SEEN_THROUGH = 0.15
"""Share of the episodes in which another anatomy shines through, as ribs do in front of lungs."""


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """A batch of tasks. The first `supports` frames of each are shown with their masks, the others are asked for.

    Attributes:
        pixels: (B, T, 3, S, S) float32 in [0, 1].
        masks: (B, T, 1, S, S) float32, 0 or 1: one target label per episode.
        tissues: (B, T, S, S) uint8, every label that may be learned, below `TISSUES`; 0 is all else.
        supports: K.
        consecutive: whether the queries are neighbouring slices of one patient, in order.
        without: what is not to be learned from them.
    """

    pixels: Tensor
    masks: Tensor
    tissues: Tensor
    supports: int
    consecutive: bool
    without: tuple[Part, ...] = ()

    def to(self, device: torch.device) -> Episodes:
        """Return the episodes on another device."""
        pixels, masks, tissues = (tensor.to(device) for tensor in (self.pixels, self.masks, self.tissues))
        return replace(self, pixels=pixels, masks=masks, tissues=tissues)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to draw: `episodes` tasks of `supports` + `queries` frames of `image_size` pixels.

    `without`: parts of the training that are left out.
    """

    episodes: int = 16
    supports: int = 2
    queries: int = 2
    image_size: int = 128
    consecutive: bool = False
    without: tuple[Part, ...] = ()

    @property
    def frames(self) -> int:
        """Frames of one episode."""
        return self.supports + self.queries


@dataclass(frozen=True, slots=True, eq=False)
class Anatomies:
    """What episodes are drawn from, one anatomy each.

    Attributes:
        fields: (B, L, Z, G, G); the label of a voxel is the channel that is highest there, 0 is background.
        allowed: (L,) or (B, L) bool, which labels may be a target.
        image: (B, 1, Z, G, G) in [0, 1], a real scan's own look; None where the look is to be invented.
    """

    fields: Tensor
    allowed: Tensor | None = None
    image: Tensor | None = None


def render(anatomies: Anatomies, plan: Plan, generator: torch.Generator) -> Episodes:
    """Return episodes over `anatomies`: deformed, re-textured or re-contrasted, photographed."""
    image = anatomies.image
    # Fields are smooth, so half the resolution is enough to sample them at, and a quarter of the time.
    where = _coordinates(len(anatomies.fields), replace(plan, image_size=plan.image_size // 2), generator)
    sampled = F.grid_sample(anatomies.fields, where, padding_mode="border", align_corners=True)
    sampled = _enlarge(sampled, plan.image_size)  # (B, L, T, S, S)
    label = sampled.argmax(dim=1)
    allowed = _allowed(anatomies)
    target = _target(label, allowed, plan.supports, generator)
    if image is None:
        gone = _gone(len(label), plan, generator)
        label = _without(target, sampled, label, gone)
        if not plan.consecutive and Part.LESIONS not in plan.without:
            label, target = with_lesions(label, target, gone, allowed.shape[1], generator)
        allowed = torch.cat([allowed, torch.tensor(ADDED).expand(len(allowed), -1)], dim=1)
        alike = 0.0 if Part.LOOK_ALIKES in plan.without else ALIKE
        look = _looks(target, allowed.shape[1], alike, generator)
        pixels = _paint(look.gather(1, label.flatten(1)).view_as(label), allowed.shape[1], generator)
    else:
        where = _enlarge(where.movedim(-1, 1), plan.image_size).movedim(1, -1)
        pixels = F.grid_sample(image, where, padding_mode="border", align_corners=True).transpose(1, 2)
    pixels = _photograph(pixels, generator)
    masks = (label[..., None] == target[:, None, None, None]).any(dim=-1).float().unsqueeze(2)
    rows = torch.arange(len(label))[:, None, None, None]
    tissues = torch.where(allowed[rows, label], label, 0).to(torch.uint8)
    pixels = pixels.expand(-1, -1, 3, -1, -1).contiguous()
    return Episodes(pixels, masks, tissues, plan.supports, plan.consecutive, plan.without)


def _enlarge(maps: Tensor, size: int) -> Tensor:
    """Return maps (B, C, T, s, s) at `size` pixels a side; corners stay corners."""
    flat = F.interpolate(maps.flatten(1, 2), size=size, mode="bilinear", align_corners=True)
    return flat.view(*maps.shape[:3], size, size)


def _coordinates(batch: int, plan: Plan, generator: torch.Generator) -> Tensor:
    """Return where each frame's pixels lie in the field, (B, T, S, S, 3) as x, y, z in [-1, 1]."""
    size, frames = plan.image_size, plan.frames
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    plane = torch.stack([x, y], dim=-1).view(1, 1, size, size, 2)
    turn, zoom, shift, bend = _patients(batch, plan, generator)
    cos, sin = turn.cos(), turn.sin()
    rotation = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # (B, T, 2, 2)
    plane = torch.einsum("btij,bthwj->bthwi", rotation, plane.expand(batch, frames, -1, -1, -1))
    plane = plane * zoom[..., None, None, None] + shift[:, :, None, None] + bend
    depth = _depths(batch, plan, generator)[..., None, None, None].expand(-1, -1, size, size, 1)
    return torch.cat([plane, depth], dim=-1)


def _patients(batch: int, plan: Plan, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each frame's turn, zoom, shift and elastic bend; frames of one patient share them."""
    size, frames = plan.image_size, plan.frames
    patient = _patient_of_frame(batch, plan, generator)  # (B, T)
    turn = 0.2 * torch.randn(batch, frames, generator=generator)
    zoom = uniform((batch, frames), 0.8, 1.15, generator)
    bend = smooth_noise((batch * frames, 2, size, size), 5, generator).view(batch, frames, 2, size, size)
    strength = uniform((batch, 1, 1, 1, 1), 0.0, 0.09, generator)
    bend = (strength * bend).permute(0, 1, 3, 4, 2)
    rows = torch.arange(batch)[:, None]
    # The whole episode is also seen from one random side and distance.
    view = (torch.randint(0, 4, (batch, 1), generator=generator) * torch.pi / 2).float()
    distance = uniform((batch, 1), 0.4, 1.15, generator)
    zoom = zoom * distance
    shift = _shift(zoom, generator)
    return turn[rows, patient] + view, zoom[rows, patient], shift[rows, patient], bend[rows, patient]


def _shift(zoom: Tensor, generator: torch.Generator) -> Tensor:
    """Return how far each frame looks off the centre, (B, T, 2), for frames that see `zoom` (B, T) of the field.

    In a third of the episodes patients are centred alike, as scans of one protocol are; in the others each looks
    elsewhere, as far as the field goes. Without that, the network learns to answer with the place of the supports.
    """
    batch, frames = zoom.shape
    small = 0.1 * torch.randn(batch, frames, 2, generator=generator)
    room = (1 - zoom).clamp_min(0).unsqueeze(-1)
    far = room * uniform((batch, frames, 2), -1, 1, generator)
    alike = torch.rand(batch, 1, 1, generator=generator) < 0.35
    return small + torch.where(alike, 0.0, far)


def _patient_of_frame(batch: int, plan: Plan, generator: torch.Generator) -> Tensor:
    """Return (B, T) indices: which frame's deformation each frame takes.

    Supports come from different patients or all from one; a query is of a patient of its own, or of the supports'.
    """
    own = torch.arange(plan.frames).expand(batch, -1).clone()
    if plan.consecutive:
        own[:, plan.supports :] = plan.supports
    same_patient = torch.rand(batch, generator=generator) < 0.35
    own[same_patient] = 0
    one_support_patient = torch.rand(batch, generator=generator) < 0.4
    own[one_support_patient, : plan.supports] = 0
    return own


def _depths(batch: int, plan: Plan, generator: torch.Generator) -> Tensor:
    """Return each frame's depth z, (B, T): near the episode's middle; consecutive queries walk through it."""
    middle = uniform((batch, 1), -0.7, 0.7, generator)
    spread = uniform((batch, 1), 0.02, 0.25, generator)
    depth = middle + spread * torch.randn(batch, plan.frames, generator=generator)
    if plan.consecutive:
        step = uniform((batch, 1), 0.02, 0.2, generator) * torch.sign(torch.randn(batch, 1, generator=generator))
        depth[:, plan.supports :] = depth[:, plan.supports, None] + step * torch.arange(plan.queries)
    return depth.clamp(-1, 1)


def _allowed(anatomies: Anatomies) -> Tensor:
    """Return which labels may be a target, (B, L) bool; never the background."""
    batch, labels = anatomies.fields.shape[:2]
    allowed = torch.ones(batch, labels, dtype=torch.bool) if anatomies.allowed is None else anatomies.allowed.clone()
    allowed[:, 0] = False
    return allowed


def _target(label: Tensor, allowed: Tensor, supports: int, generator: torch.Generator) -> Tensor:
    """Return one allowed label per episode, one that the supports show well if there is, (B, 2).

    Now and then two labels together are the target; else both columns are the same.
    """
    batch, labels = allowed.shape
    share = F.one_hot(label, labels).float().mean(dim=(2, 3))  # (B, T, L)
    shown = share[:, :supports].amin(dim=1)
    # Small structures are the hard ones, so they are drawn as often as large ones.
    fit = (shown > 0.002) & (shown < 0.4)
    weight = (fit.float() + 1e-6 * (shown > 0).float() + 1e-12) * (allowed.float() + 1e-20)
    target = torch.multinomial(weight, 2, generator=generator)
    joined = (torch.rand(batch, generator=generator) < 0.15) & fit.gather(1, target[:, 1:])[:, 0]
    target[:, 1] = torch.where(joined, target[:, 1], target[:, 0])
    return target


def _gone(batch: int, plan: Plan, generator: torch.Generator) -> Tensor:
    """Return in which frames the target is taken away, (B, T): some queries, or all slices after a point."""
    gone = torch.rand(batch, plan.frames, generator=generator) < 0.15
    if plan.consecutive:
        gone[:, plan.supports] = False
        gone = gone.cummax(dim=1).values
    gone[:, : plan.supports] = False
    return gone


def _without(target: Tensor, sampled: Tensor, label: Tensor, gone: Tensor) -> Tensor:
    """Return labels in which the target gave way to what lies next to it, in the frames where it is gone.

    "It is not here" has to be learned from pictures that look just as if it could be.
    """
    rows, frames = gone.nonzero(as_tuple=True)
    if not len(rows):
        return label
    fields = sampled[rows, :, frames].scatter(1, target[rows][..., None, None].expand(-1, -1, *label.shape[-2:]), -1e9)
    changed = label.clone()
    changed[rows, frames] = fields.argmax(dim=1)
    return changed


def _looks(target: Tensor, labels: int, share: float, generator: torch.Generator) -> Tensor:
    """Return whose look each label has, (B, L): its own, or in a share of the episodes that of the target (B, 2).

    As both ventricles hold the same blood: then place and shape must tell. Vessels, the last label, always look so.
    """
    batch = len(target)
    look = torch.arange(labels).expand(batch, -1).clone()
    others = torch.randint(1, labels, (batch, 2), generator=generator)
    alike = torch.rand(batch, 1, generator=generator) < share
    look.scatter_(1, others, torch.where(alike, target[:, :1], others))
    look[:, -1] = target[:, 0]
    return look


def _paint(label: Tensor, labels: int, generator: torch.Generator) -> Tensor:
    """Return an invented look (B, T, 1 or 3, S, S): a mean, a texture and its scale for each label."""
    batch, frames, size, _ = label.shape
    channels = 3 if torch.rand((), generator=generator) < 0.2 else 1
    mean = torch.rand(batch, 1, labels, channels, generator=generator)
    patient_shift = PATIENT_SHIFT * uniform((batch, 1, 1, 1), 0.0, 1.0, generator).square()
    mean = mean + patient_shift * torch.randn(batch, frames, labels, channels, generator=generator)
    dark_outside = torch.rand(batch, 1, 1, generator=generator) < 0.7
    mean[:, :, 0] = torch.where(dark_outside, 0.02, mean[:, :, 0])
    rows = torch.arange(batch)[:, None, None, None]
    columns = torch.arange(frames)[None, :, None, None]
    picture = mean[rows, columns, label].movedim(-1, 2)  # (B, T, channels, S, S)
    for cells in (size // 2, size // 8):
        strength = 0.12 * torch.rand(batch, 1, labels, generator=generator).square()
        amount = strength.expand(-1, frames, -1)[rows, columns, label].unsqueeze(2)
        texture = smooth_noise((batch * frames, 1, size, size), cells, generator)
        picture = picture + amount * texture.view(batch, frames, 1, size, size)
    return _seen_through(picture, generator)


def _seen_through(picture: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures (B, T, C, S, S) of which some are added to those of another episode, as a projection adds up."""
    batch = len(picture)
    chosen = torch.rand(batch, 1, 1, 1, 1, generator=generator) < SEEN_THROUGH
    strength = uniform((batch, 1, 1, 1, 1), 0.1, 0.7, generator)
    return picture + torch.where(chosen, strength, 0.0) * picture.roll(1, dims=0)


def _photograph(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return pixels (B, T, C, S, S) as a scanner might have taken them, in [0, 1]."""
    batch, frames, channels, size, _ = pixels.shape
    flat = pixels.flatten(0, 1)
    count = batch * frames

    def each(low: float, high: float) -> Tensor:
        return uniform((count, 1, 1, 1), low, high, generator)

    flat = flat * (each(0.0, 0.25) * smooth_noise((count, 1, size, size), 3, generator)).exp()
    flat = _blur(flat, generator)
    speckled = torch.rand(count, 1, 1, 1, generator=generator) < 0.1
    noise = torch.randn(flat.shape, generator=generator)
    flat = torch.where(speckled, flat * (1 + 0.4 * noise), flat + each(0.0, 1.0).square() * 0.12 * noise)
    low, high = _quantiles(flat)
    flat = ((flat - low) / (high - low).clamp_min(1e-3)).clamp(0, 1)
    return flat.pow(each(-0.4, 0.4).exp()).view(batch, frames, channels, size, size)


def _blur(flat: Tensor, generator: torch.Generator) -> Tensor:
    """Return a third of the frames as they are, a third softened, a third through a coarser grid."""
    size = flat.shape[-1]
    kind = torch.rand(len(flat), 1, 1, 1, generator=generator)
    soft = F.avg_pool2d(flat, 3, stride=1, padding=1, count_include_pad=False)
    factor = float(uniform((1,), 0.2, 0.8, generator))
    coarse = F.interpolate(flat, size=int(size * factor), mode="area")
    coarse = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return torch.where(kind < 0.35, flat, torch.where(kind < 0.7, soft, coarse))


def _quantiles(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 0.5 % and 99.5 % values of each frame, (N, 1, 1, 1)."""
    values = flat.flatten(1)[:, ::7]
    low = values.quantile(0.005, dim=1)
    high = values.quantile(0.995, dim=1)
    return low.view(-1, 1, 1, 1), high.view(-1, 1, 1, 1)
