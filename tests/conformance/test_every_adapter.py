"""Every file in volgen/models/adapters keeps the promises of ``AdapterConfig``, on every network."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from volgen.core.registry import config_class, kinds

PACKAGE, NETWORKS = "volgen.models.adapters", "volgen.models.networks"
# Small enough for a test; a file without an entry is tested with its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "unet3d": {"channels": (8, 16), "attention": (False, True), "head_channels": 8, "norm_groups": 4},
    "slice_unet2d": {"channels": (8, 16), "norm_groups": 4, "neighbours": 1},
    "triplanar": {"channels": (8,), "norm_groups": 4, "neighbours": 1, "planes": ("R", "S")},
    "wavelet_unet3d": {"channels": (8, 16), "norm_groups": 4},
}
# Only one network has attention layers; what happens to the others has a test of its own.
PAIRS = [(adapter, network) for adapter in kinds(PACKAGE) for network in kinds(NETWORKS) if adapter != "attention" or network == "unet3d"]
X, NOISE = torch.randn(2, 2, 8, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([-0.5, 0.5])


def awake(kind: str) -> nn.Module:
    """A network with random weights everywhere: a last layer of zeros would hide the rest."""
    torch.manual_seed(0)
    network: nn.Module = config_class(NETWORKS, kind).model_validate(SMALL.get(kind, {})).build(inputs=2)  # type: ignore[attr-defined]
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3)
    return network


def attached(adapter: str, network: str) -> tuple[Any, nn.Module, nn.Module]:
    """Configuration, the network as it was and as prepared."""
    config, before = config_class(PACKAGE, adapter)(), awake(network)
    after = copy.deepcopy(before)
    config.attach(after)  # type: ignore[attr-defined]
    return config, before, after


@torch.no_grad()
def output(network: nn.Module) -> Tensor:
    return network(X, NOISE)  # type: ignore[no-any-return]


def step(network: nn.Module) -> None:
    """One large step of what is trained."""
    trained = [p for p in network.parameters() if p.requires_grad]
    for _ in range(2):  # a low-rank branch learns its first half in the second step
        gradients = torch.autograd.grad(network(X, NOISE).square().mean(), trained, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    parameter -= 0.1 * parameter.numel() ** 0.5 * gradient / (gradient.norm() + 1e-12)


def test_the_promised_adapters_exist() -> None:
    assert set(kinds(PACKAGE)) >= {"all", "lora", "svdiff", "attention"}


@pytest.mark.parametrize(("adapter", "network"), PAIRS)
def test_to_begin_with_nothing_has_changed(adapter: str, network: str) -> None:
    config, before, after = attached(adapter, network)
    assert torch.equal(output(before), output(after))
    merged = config.merge(after.state_dict())
    assert merged.keys() == before.state_dict().keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in before.state_dict().items())


@pytest.mark.parametrize(("adapter", "network"), PAIRS)
def test_merged_weights_compute_what_was_trained(adapter: str, network: str) -> None:
    config, before, after = attached(adapter, network)
    frozen = {name: p.detach().clone() for name, p in after.named_parameters() if not p.requires_grad}
    assert config.needs_trained == bool(frozen)
    step(after)
    assert all(torch.equal(p, frozen[name]) for name, p in after.named_parameters() if name in frozen)
    plain = awake(network)
    plain.load_state_dict(config.merge(after.state_dict()))
    expected = output(after)
    assert (expected - output(before)).std() > 0.01 * expected.std(), "a step that changes nothing shows nothing"
    torch.testing.assert_close(output(plain), expected, rtol=0.0, atol=3e-5 * float(expected.abs().max()))


def test_adapters_train_fewer_weights_and_only_those_of_their_kind() -> None:
    _, before, lora = attached("lora", "unet3d")
    names = {name for name, p in lora.named_parameters() if p.requires_grad}
    assert names and all(".lora_down." in name or ".lora_up." in name for name in names)
    assert sum(p.numel() for p in lora.parameters() if p.requires_grad) < 0.5 * sum(p.numel() for p in before.parameters())
    _, _, attention = attached("attention", "unet3d")
    names = {name for name, p in attention.named_parameters() if p.requires_grad}
    assert names and all("attention" in name for name in names)


def test_a_network_without_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="no attention layers"):
        config_class(PACKAGE, "attention")().attach(awake("wavelet_unet3d"))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no convolutions or linear layers"):
        config_class(PACKAGE, "lora")().attach(nn.GroupNorm(1, 2))  # type: ignore[attr-defined]


def test_spectral_shifts_are_learnt_along_the_directions_of_each_weight() -> None:
    layer = nn.Linear(5, 3)
    w = layer.weight.detach().clone()
    net = nn.Sequential(layer)
    config_class(PACKAGE, "svdiff")().attach(net)  # type: ignore[attr-defined]
    (spectral,) = net
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["0.svdiff_shift"]
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(2))
    gradient = torch.autograd.grad(net(x).pow(3).sum(), [spectral.svdiff_shift])[0]
    full = w.clone().requires_grad_()
    of_weight = torch.autograd.grad((x @ full.T + layer.bias.detach()).pow(3).sum(), [full])[0]
    left, values, right = torch.linalg.svd(w, full_matrices=False)
    expected = torch.stack([left[:, i] @ of_weight @ right[i] for i in range(3)])
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():  # no singular value becomes negative, and the others move by what was learnt
        spectral.svdiff_shift.copy_(torch.tensor([0.5, -0.1, -9.0]))
    merged = config_class(PACKAGE, "svdiff")().merge(net.state_dict())["0.weight"]  # type: ignore[attr-defined]
    moved = (values + torch.tensor([0.5, -0.1, -9.0])).clamp(min=0.0)
    torch.testing.assert_close(merged, left @ torch.diag(moved) @ right, rtol=1e-5, atol=1e-6)
