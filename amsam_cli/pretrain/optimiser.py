"""What moves the weights in pretraining: Muon for matrices and kernels, AdamW for all else, or AdamW alone.

Knows torch only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from amsam_cli.errors import InputError

Optimisers = Callable[[nn.Module], list[Optimizer]]
"""A network -> what moves those of its parameters that learn; each of them is moved by one."""

NARROW = 16
"""A matrix with fewer rows or columns has too few directions to make equally long."""


def adamw(network: nn.Module, decay: float = 0.02) -> list[Optimizer]:
    """Return AdamW over what learns, that decays what has two axes and more, not biases or norms."""
    return [_adamw([p for p in network.parameters() if p.requires_grad], decay)]


def muon(network: nn.Module, decay: float = 0.02) -> list[Optimizer]:
    """Return Muon over the matrices and kernels that learn, and AdamW over all else, for one learning rate.

    Raises:
        InputError: torch is older than 2.9, which has no Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise InputError(f"torch {torch.__version__} has no Muon to train with.", "Install torch 2.9 or later.")
    matrices = [p for p in _matrices(network) if p.requires_grad]
    chosen = {id(p) for p in matrices}
    rest = [p for p in network.parameters() if p.requires_grad and id(p) not in chosen]
    return [*([_muon(matrices, decay)] if matrices else []), *([_adamw(rest, decay)] if rest else [])]


def _adamw(parameters: Sequence[nn.Parameter], decay: float) -> Optimizer:
    decayed: list[Tensor] = [p for p in parameters if p.ndim >= 2]
    free: list[Tensor] = [p for p in parameters if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": free, "weight_decay": 0.0}]
    return AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)


def _matrices(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights that mix all inputs into all outputs, and are not narrow."""
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    weights = [m.get_parameter("weight") for m in layers if getattr(m, "groups", 1) == 1]
    return [weight for weight in weights if min(_as_matrix(weight).shape) >= NARROW]


def _as_matrix(values: Tensor) -> Tensor:
    """Return a kernel (O, I, h, w) as the matrix (O, h * w * I), a matrix as it is; of channels last it is a view."""
    return values if values.ndim == 2 else values.permute(0, 2, 3, 1).reshape(len(values), -1)


def _muon(parameters: Sequence[nn.Parameter], decay: float) -> Optimizer:
    """Return torch's Muon, which takes matrices only, over views of `parameters`.

    It makes the singular values of the momentum equal (Jordan et al., Muon, 2024), and its steps as large as AdamW's
    (Liu et al., Muon is scalable for LLM training, 2025), so that both keep one learning rate.
    """
    views = [_as_matrix(p.detach()) for p in parameters]
    if any(view.data_ptr() != p.data_ptr() for view, p in zip(views, parameters, strict=True)):
        raise ValueError("Kernels have to be channels last: Muon moves them through views.")
    optimiser = torch.optim.Muon(views, lr=1e-3, weight_decay=decay, adjust_lr_fn="match_rms_adamw")

    def hand_gradients(*_: Any) -> None:
        for view, parameter in zip(views, parameters, strict=True):
            view.grad = None if parameter.grad is None else _as_matrix(parameter.grad)

    optimiser.register_step_pre_hook(hand_gradients)
    return optimiser
