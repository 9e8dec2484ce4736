"""Gradients of each patient from one pass are those of passes of their own; where they cannot be, that is found out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from volgen.models.denoiser import Network
from volgen.models.networks import slice_unet2d, triplanar, unet3d, wavelet_unet3d
from volgen.privacy.per_sample import PerSample, differs, meets

PATIENTS, VIEWS = 2, 2
NETWORKS: dict[str, Any] = {
    "wavelet_unet3d": wavelet_unet3d.Config(channels=(8, 16)),
    "local": wavelet_unet3d.Config(channels=(8, 16), norm="pixel"),
    "unet3d": unet3d.Config(channels=(8, 16), attention=(False, True), head_channels=8, norm_groups=4),
}


def losses(network: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    return (network(x, noise) - 1.0).square().mean(dim=(1, 2, 3, 4))


def randomised(network: nn.Module) -> nn.Module:
    for p in network.parameters():  # what starts at zero would hide everything behind it
        p.data += torch.randn(p.shape) * (p[0].numel() if p.dim() > 1 else 1) ** -0.5
    return network


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_patients_gradient_is_that_of_the_mean_over_their_views(kind: str) -> None:
    torch.manual_seed(0)
    network = randomised(NETWORKS[kind].build(inputs=1))
    x, noise = torch.randn(PATIENTS * VIEWS, 1, 8, 8, 8), torch.linspace(-0.5, 0.5, PATIENTS * VIEWS)
    trained = list(network.parameters())
    each = PerSample(network)
    for _ in range(2):  # nothing is left of the first pass
        found = each.gradients(losses(network, *each.inputs(x, noise)), PATIENTS)
        assert all(p.grad is None for p in trained), "nothing reaches what DeepSpeed listens to"
    each.close()
    for patient in range(PATIENTS):
        views = slice(patient * VIEWS, (patient + 1) * VIEWS)
        expected = torch.autograd.grad(losses(network, x[views], noise[views]).mean(), trained)
        largest = max(float(gradient.abs().max()) for gradient in expected)
        for mine, gradient in zip(found, expected, strict=True):
            assert float((mine[patient] - gradient).abs().max()) < 1e-5 * largest


def test_a_loss_may_ask_the_network_more_than_once() -> None:
    torch.manual_seed(0)
    network = randomised(NETWORKS["wavelet_unet3d"].build(inputs=1))
    x, noise = torch.randn(PATIENTS * VIEWS, 1, 8, 8, 8), torch.linspace(-0.5, 0.5, PATIENTS * VIEWS)

    def loss(network: Network, x: Tensor, noise: Tensor) -> Tensor:
        with torch.no_grad():
            target = network(0.5 * x, noise)
        return (network(x, noise) - target).square().mean(dim=(1, 2, 3, 4)) + network(2 * x, noise + 1).square().mean(dim=(1, 2, 3, 4))

    each = PerSample(network)
    for _ in range(2):
        found = each.gradients(loss(lambda *inputs: network(*each.inputs(*inputs)), x, noise), PATIENTS)
    each.close()
    for patient in range(PATIENTS):
        views = slice(patient * VIEWS, (patient + 1) * VIEWS)
        expected = torch.autograd.grad(loss(network, x[views], noise[views]).mean(), list(network.parameters()))
        largest = max(float(gradient.abs().max()) for gradient in expected)
        for mine, gradient in zip(found, expected, strict=True):
            assert float((mine[patient] - gradient).abs().max()) < 1e-5 * largest


class Meeting(nn.Module):
    """Adds a rounding error in which patients, or their places, meet."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.how = nn.Conv3d(1, 1, 1), how

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        others = {"alone": x.new_zeros(()), "others": x.detach().sum(), "place": torch.arange(len(x))[:, None, None, None, None]}[self.how]
        return self.layer(x) * (1.0 + 1e-6 * others)  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["alone", "others", "place"])
@pytest.mark.parametrize("views", [1, 2])
def test_patients_who_meet_in_the_last_bits_are_noticed(how: str, views: int) -> None:
    x, generator = torch.empty(4 * views, 1, 4, 4, 4), torch.Generator().manual_seed(0)
    x.normal_(generator=generator)

    def loss(network: Network, rows: Sequence[int]) -> Tensor:
        return (network(x[rows], torch.zeros(len(rows))) - x[rows]).square().mean(dim=(1, 2, 3, 4))

    assert bool(meets(Meeting(how), loss, 4, views)) is (how != "alone")


def test_convolutions_are_those_of_opacus() -> None:
    from opacus.grad_sample import GradSampleModule

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(4, 6, 3, stride=2, padding=1, groups=2), nn.SiLU(), nn.Conv3d(6, 1, (1, 3, 2), dilation=(1, 2, 1)))
    x = torch.randn(3, 4, 9, 10, 8)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network

        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            return self.layers(x)  # type: ignore[no-any-return]

    each = PerSample(module := Network())
    found = each.gradients(losses(module, *each.inputs(x, torch.ones(3))), 3)
    each.close()
    theirs = GradSampleModule(network, loss_reduction="sum")
    (theirs(x.requires_grad_()) - 1.0).square().mean(dim=(1, 2, 3, 4)).sum().backward()
    for mine, p in zip(found, network.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad_sample, rtol=1e-5, atol=1e-7)


class Shared(nn.Module):
    """One convolution that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.conv(torch.relu(self.conv(x)))  # type: ignore[no-any-return]


class Mixing(Shared):
    """Patients meet in the mean over the batch."""

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return self.conv(x) - self.conv(x).mean(dim=0, keepdim=True)  # type: ignore[no-any-return]


class Unused(Shared):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(1, 1)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def parametrised() -> nn.Module:
    network = Shared()
    parametrize.register_parametrization(network.conv, "weight", Doubled())
    return network


@pytest.mark.parametrize(
    ("network", "right"),
    [
        (NETWORKS["wavelet_unet3d"].build(inputs=1), True),
        (NETWORKS["unet3d"].build(inputs=1), True),
        (slice_unet2d.Config(channels=(8,)).build(inputs=1), False),
        (triplanar.Config(channels=(8,)).build(inputs=1), False),
        (NETWORKS["local"].build(inputs=1), True),
        (Shared(), True),
        (Mixing(), False),
        (Unused(), False),
        (parametrised(), True),
    ],
    ids=["wavelet_unet3d", "unet3d", "slice_unet2d", "triplanar", "local", "shared", "mixing", "unused", "parametrised"],
)
def test_what_opacus_would_do_wrongly_is_found_out(network: nn.Module, right: bool) -> None:
    torch.manual_seed(1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    reason = differs(network, torch.randn(2, 1, 8, 8, 8), torch.tensor([0.2, -0.4]))
    assert (reason == "") == right, reason
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(hasattr(p, "grad_sample") for p in network.parameters())


def test_features_of_places_have_a_gradient_for_each_patient() -> None:
    torch.manual_seed(0)
    network = wavelet_unet3d.Config.model_validate({"channels": (8,), "norm": "pixel", "place": {"grid": [2, 3, 2]}}).build(inputs=4)
    assert differs(network, torch.randn(2, 4, 8, 8, 8), torch.tensor([0.2, -0.4])) == ""
