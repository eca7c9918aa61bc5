"""What tuning changes in a model: LoRA, whole weights, calibration, class tokens; made trainable, kept, put back.

Outside its `with` blocks a model is bit for bit what its checkpoint says. Knows the parts of a model by
`PromptableModel.adaptable` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from amsam_cli.adapter.config import AdapterConfig, Tune
from amsam_cli.errors import AdapterError
from amsam_cli.methods.calibration import CalibrationHead, calibrated, channels_of
from amsam_cli.methods.classes import class_tokens
from amsam_cli.models.base import PromptableModel

# q and v of every attention in SAM's mask decoder, as BLO-SAM and AM-SAM place LoRA; SAM 1 and SAM 2 share the names.
DECODER_TARGETS = (
    r".*mask_decoder\.transformer\."
    r"(layers\.\d+\.(self_attn|cross_attn_token_to_image|cross_attn_image_to_token)|final_attn_token_to_image)"
    r"\.(q_proj|v_proj)"
)


MEMORY_TARGETS = r"(layers\.\d+\.cross_attn_image\.)?(q|k|v|out)_proj"
"""Within memory attention: how it asks memories and what it takes from them."""

# Parts of the decoder's module that are no decoder to train: LoRA serves the transformer, and SAM 2 runs the last two
# with its encoder, so that they have no say where features are kept.
OUTSIDE = ("transformer.", "conv_s0.", "conv_s1.")


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """What was learned of a model's weights.

    Attributes:
        lora: peft's own state.
        weights: parameter -> float16 difference to the backbone's; of those trained whole.
        calibration: state of the calibration head.
        classes: state of the class tokens, where the decoder has one for each label instead of its own.
    """

    lora: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    calibration: Mapping[str, Tensor] = field(default_factory=dict)
    classes: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was trained."""
        return not (self.lora or self.weights or self.calibration or self.classes)

    @property
    def tokens(self) -> int:
        """How many class tokens there are, the background's included; 0 where the decoder has its own."""
        return len(self.classes["mask_tokens.weight"]) if self.classes else 0

    @property
    def channels(self) -> Tensor | None:
        """(L,), the class token that answers for each label; None where the decoder has its own."""
        return channels(self.tokens)

    @property
    def targets(self) -> list[str]:
        """The layers that have LoRA, by name."""
        return sorted({_target_of(name) for name in self.lora})


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A model in which something is trainable.

    Attributes:
        groups: module -> its trainable parameters, in the order they are reported.
    """

    groups: Mapping[str, Sequence[nn.Parameter]]
    _lora: PeftModel | None
    _thawed: Mapping[str, nn.Parameter]
    _originals: Mapping[str, Tensor]
    _head: CalibrationHead | None
    _classes: nn.ModuleDict | None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trainable: the lower level."""
        return [parameter for group in self.groups.values() for parameter in group]

    @property
    def counts(self) -> dict[str, int]:
        """Module -> number of trainable parameters."""
        return {name: sum(each.numel() for each in group) for name, group in self.groups.items()}

    def changes(self) -> Changes:
        """Return what differs from the backbone now, on the CPU."""
        lora = get_peft_model_state_dict(self._lora) if self._lora else {}
        return Changes(
            {name: tensor.detach().cpu().clone() for name, tensor in lora.items()},
            {
                name: (parameter.detach() - self._originals[name]).to(torch.float16).cpu()
                for name, parameter in self._thawed.items()
            },
            _state(self._head),
            _state(self._classes),
        )


@contextmanager
def tuned(model: PromptableModel, config: AdapterConfig, tune: Tune, *, tokens: int = 0) -> Iterator[Tuned]:
    """Make what `tune` names trainable for the time of the block; nothing the model says changes before a step.

    With `tokens` the decoder gets so many class tokens instead of its own, which know nothing before the first step.

    Raises:
        AdapterError: LoRA finds no layer in a part it should be in.
    """
    targets = lora_targets(model, tune, memory=config.episodes)
    groups: dict[str, Sequence[nn.Parameter]] = {}
    with ExitStack() as stack:
        lora = stack.enter_context(_lora(model, config.rank, targets)) if targets else None
        groups |= _lora_groups(model)
        decoder = model.adaptable()["decoder"]
        classes = stack.enter_context(class_tokens(decoder, tokens)) if tokens else None
        names = _whole(model, tune) - _names_of(model, classes)
        thawed = {name: parameter for name, parameter in model.network.named_parameters() if name in names}
        originals = stack.enter_context(_thaw(thawed))
        groups |= _by_part(model, thawed)
        head = None
        if config.calibration != "off":
            head = CalibrationHead(channels_of(decoder)).to(model.device)
            stack.enter_context(calibrated(decoder, head, combine=config.calibration, tokens=tokens or 1))
            groups["calibration"] = list(head.parameters())
        if classes is not None:
            groups["class tokens"] = list(classes.parameters())
        yield Tuned(groups, lora, thawed, originals, head, classes)


@contextmanager
def attached(model: PromptableModel, config: AdapterConfig, changes: Changes) -> Iterator[None]:
    """Let `model` be as tuned for the time of the block."""
    with ExitStack() as stack:
        if changes.lora:
            lora = stack.enter_context(_lora(model, config.rank, changes.targets))
            set_peft_model_state_dict(lora, dict(changes.lora))
        decoder = model.adaptable()["decoder"]
        if changes.classes:
            stack.enter_context(class_tokens(decoder, changes.tokens)).load_state_dict(dict(changes.classes))
        parameters = dict(model.network.named_parameters())
        stack.enter_context(_thaw({name: parameters[name] for name in changes.weights}))
        with torch.no_grad():
            for name, difference in changes.weights.items():
                parameters[name].add_(difference.to(parameters[name]))
        if changes.calibration and config.calibration != "off":
            head = CalibrationHead(channels_of(decoder)).to(model.device)
            head.load_state_dict(dict(changes.calibration))
            head.requires_grad_(False)
            stack.enter_context(calibrated(decoder, head, combine=config.calibration, tokens=changes.tokens or 1))
        model.network.requires_grad_(False)
        yield


def channels(tokens: int) -> Tensor | None:
    """Return the class token that answers for each label, (L,), of so many tokens; None for none.

    >>> channels(3)
    tensor([1, 2])
    """
    return torch.arange(1, tokens) if tokens else None


def lora_config(rank: int, targets: str | list[str] = DECODER_TARGETS) -> LoraConfig:
    """Return peft's configuration: alpha = rank, no dropout, no bias (AM-SAM)."""
    return LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, bias="none", target_modules=targets)


def lora_targets(model: PromptableModel, tune: Tune, *, memory: bool = False) -> list[str]:
    """Return the layers that get LoRA, by their names in `model.network`; none where every weight is trained.

    With `memory` the projections by which memory attention looks at memories get it too (FS-SAM2).

    Raises:
        AdapterError: a part that should get LoRA has no layer for it.
    """
    if tune == "full":
        return []
    modules = dict(model.network.named_modules())
    targets = [name for name in modules if re.fullmatch(DECODER_TARGETS, name)]
    found = {"mask decoder": targets}
    if tune == "encoder":
        encoder = set(model.adaptable()["encoder"].modules())
        layers = [n for n, each in modules.items() if each in encoder and isinstance(each, nn.Linear | nn.Conv2d)]
        found["image encoder"] = layers
        targets = [*targets, *layers]
    if memory:
        attention = model.adaptable().get("memory", nn.Module())
        own = {each for name, each in attention.named_modules() if re.fullmatch(MEMORY_TARGETS, name)}
        found["memory attention"] = [name for name, each in modules.items() if each in own]
        targets = [*targets, *found["memory attention"]]
    for part, names in found.items():
        if not names:
            raise AdapterError(
                f"LoRA matches no layer in the {part} of model '{model.name}'.", "Tune something else, or another model"
            )
    return targets


def _whole(model: PromptableModel, tune: Tune) -> set[str]:
    """Return the names of the parameters that are trained themselves, without LoRA."""
    named = dict(model.network.named_parameters())
    if tune == "full":
        return {name for name, parameter in named.items() if parameter.is_floating_point()}
    if tune == "lora":
        return set()
    outside = {
        id(parameter)
        for name, parameter in model.adaptable()["decoder"].named_parameters()
        if not name.startswith(OUTSIDE)
    }
    return {name for name, parameter in named.items() if id(parameter) in outside}


def _names_of(model: PromptableModel, part: nn.Module | None) -> set[str]:
    """Return the names in `model.network` of the parameters of one of its parts."""
    own = {id(parameter) for parameter in part.parameters()} if part is not None else set()
    return {name for name, parameter in model.network.named_parameters() if id(parameter) in own}


@contextmanager
def _lora(model: PromptableModel, rank: int, targets: list[str]) -> Iterator[PeftModel]:
    """Put fresh LoRA layers into `model` for the time of the block; they start as zero."""
    wrapped: PeftModel = get_peft_model(model.network, lora_config(rank, targets))
    try:
        yield wrapped
    finally:
        wrapped.unload()


@contextmanager
def _thaw(parameters: Mapping[str, nn.Parameter]) -> Iterator[dict[str, Tensor]]:
    """Let parameters be trained for the time of the block, then put them back; give what they were."""
    originals = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        yield originals
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(originals[name])
                parameter.grad = None
                parameter.requires_grad_(False)


def _lora_groups(model: PromptableModel) -> dict[str, list[nn.Parameter]]:
    """Return the LoRA parameters by the part they are in."""
    groups = {
        f"{part} LoRA": [parameter for name, parameter in module.named_parameters() if "lora_" in name]
        for part, module in model.adaptable().items()
    }
    return {name: group for name, group in groups.items() if group}


def _by_part(model: PromptableModel, thawed: Mapping[str, nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Return the thawed parameters by the part of the network they are in."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in thawed.items():
        groups.setdefault(name.split(".")[0].replace("_", " "), []).append(parameter)
    return groups


def _target_of(key: str) -> str:
    """Return the layer a tensor of peft's state belongs to.

    >>> _target_of("base_model.model.mask_decoder.final.q_proj.lora_A.weight")
    'mask_decoder.final.q_proj'
    """
    return key.removeprefix("base_model.model.").partition(".lora_")[0]


def _state(module: nn.Module | None) -> dict[str, Tensor]:
    """Return the state of a module, on the CPU; nothing for none."""
    state = module.state_dict() if module is not None else {}
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
