from __future__ import annotations

import pytest
import torch
from torch import nn

from amsam_cli.errors import InputError
from amsam_cli.models.builtin import build_network
from amsam_cli.pretrain.optimiser import adamw, muon


def network() -> nn.Sequential:
    torch.manual_seed(0)
    mixing = nn.Conv2d(16, 32, 3, padding=1)
    alone = nn.Conv2d(32, 32, 3, padding=1, groups=32)
    return nn.Sequential(mixing, alone, nn.Flatten(), nn.Linear(32 * 4, 16)).to(memory_format=torch.channels_last)


def learn(net: nn.Module, decay: float = 0.0) -> None:
    optimisers = muon(net, decay)
    net(torch.randn(32, 16, 2, 2)).square().mean().backward()
    for optimiser in optimisers:
        optimiser.step()


def moved_by(optimiser: torch.optim.Optimizer) -> set[int]:
    return {values.data_ptr() for group in optimiser.param_groups for values in group["params"]}


def unevenness(matrix: torch.Tensor) -> float:
    lengths = torch.linalg.svdvals(matrix.detach())
    return float(lengths[0] / lengths.median())


def test_muon_moves_a_kernel_in_many_directions_where_its_gradient_has_few():
    net = network()
    before = net[0].weight.detach().clone()

    learn(net)

    gradient, moved = (t.permute(0, 2, 3, 1).flatten(1) for t in (net[0].weight.grad, net[0].weight - before))
    assert unevenness(moved) < 2
    assert unevenness(gradient) > 3 * unevenness(moved)


def test_muon_leaves_depthwise_kernels_and_biases_to_adamw():
    net = network()

    matrices, rest = muon(net, decay=0.0)

    assert moved_by(matrices) == {net[0].weight.data_ptr(), net[3].weight.data_ptr()}
    assert moved_by(rest) == {net[1].weight.data_ptr(), *(net[i].bias.data_ptr() for i in (0, 1, 3))}


def test_muon_moves_everything_that_learns_once_and_nothing_else():
    net = build_network()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not name.startswith("image_encoder"))

    optimisers = muon(net, decay=0.0)

    moved = [values.data_ptr() for o in optimisers for group in o.param_groups for values in group["params"]]
    assert sorted(moved) == sorted(p.data_ptr() for p in net.parameters() if p.requires_grad)


def test_muon_skips_a_kernel_without_gradient():
    net = network()
    unused = nn.ModuleList([net, nn.Linear(16, 16)])
    before = unused[1].weight.detach().clone()
    optimisers = muon(unused, decay=0.0)

    net(torch.rand(2, 16, 2, 2)).mean().backward()
    for optimiser in optimisers:
        optimiser.step()

    assert torch.equal(unused[1].weight, before)


def test_muon_refuses_kernels_it_cannot_view():
    with pytest.raises(ValueError, match="channels last"):
        muon(network().to(memory_format=torch.contiguous_format), decay=0.0)


def test_muon_of_an_old_torch_is_an_input_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(torch.optim, "Muon")

    with pytest.raises(InputError, match="has no Muon"):
        muon(network(), decay=0.0)


def test_adamw_decays_matrices_but_not_biases():
    (optimiser,) = adamw(network(), decay=0.1)

    decayed, free = optimiser.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert all(p.ndim < 2 for p in free["params"])
