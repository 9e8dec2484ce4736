"""The noise of diffusion is none that private training could count: what one gradient tells of its person, in closed form and measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from volgen.core.given import Examples
from volgen.models.denoiser import PreconditionedDenoiser
from volgen.models.networks.wavelet_unet3d import Config as Wavelet
from volgen.models.preconditioners import edm, x0
from volgen.training.objectives.denoising import Config as Denoising

SD, SHAPE = 0.5, (1, 4, 4, 4)
VOXELS = math.prod(SHAPE)


@dataclass(frozen=True)
class Drawn:
    """Draws of one noise level, and of noise that nobody knows."""

    noise_BCXYZ: Tensor
    step: int = 1

    def quantiles(self, purpose: str = "sigma") -> list[float]:
        return [0.0] * len(self.noise_BCXYZ)

    def normal(self, shape: Any, purpose: str = "noise") -> Tensor:
        return self.noise_BCXYZ


@dataclass(frozen=True)
class Trainee:
    preconditioner: Any
    level: float
    points: tuple[float, ...] = ()

    def sigma(self, quantile: float) -> float:
        return self.level

    def denoiser(self, network: Any, ids: Any = ()) -> PreconditionedDenoiser:
        return PreconditionedDenoiser(network, self.preconditioner)


def gradients_of_the_last_bias(x_CXYZ: Tensor, kind: Any, sigma: float, count: int, seed: int) -> Tensor:
    """One number for each noise: the gradient of the bias of an untrained network's last layer, whose other weights are zero."""
    bias_B = torch.zeros(count, requires_grad=True)
    noise = torch.randn(count, *x_CXYZ.shape, generator=torch.Generator().manual_seed(seed))

    def network(input_BCXYZ: Tensor, noise_B: Tensor) -> Tensor:
        return 0.0 * input_BCXYZ + bias_B.view(-1, 1, 1, 1, 1)

    loss_B = Denoising().build(Trainee(kind.fit(list, [], 0), sigma)).loss(network, Examples(x_CXYZ.expand(count, *SHAPE)), Drawn(noise))
    return torch.autograd.grad(loss_B.sum(), bias_B)[0]


def apart(one: Tensor, other: Tensor) -> float:
    """How far two people's numbers are apart, in standard deviations: the mu of a Gaussian mechanism that gave them."""
    return float((one.mean() - other.mean()).abs() / (0.5 * (one.var() + other.var())).sqrt())


@pytest.mark.parametrize("sigma", [0.2, 1.0, 5.0])
def test_the_more_noise_a_volume_has_the_more_its_gradient_tells(sigma: float) -> None:
    """mu = sigma |mean difference| sqrt(d) / sd^2: it grows with the noise, where that of the noisy volume itself falls."""
    person, change = torch.zeros(SHAPE), 0.02
    other = person + change
    taken = [gradients_of_the_last_bias(x, edm.Config(sigma_data=SD), sigma, 20_000, seed) for seed, x in enumerate((person, other))]
    expected = sigma * change * math.sqrt(VOXELS) / SD**2
    assert apart(*taken) == pytest.approx(expected, rel=0.02, abs=0.02)
    released = change * math.sqrt(VOXELS) / sigma
    assert expected / released == pytest.approx((sigma / SD) ** 2)


def test_a_network_that_does_not_look_at_the_noisy_volume_gives_its_person_away_exactly() -> None:
    taken = gradients_of_the_last_bias(torch.full(SHAPE, 0.1), x0.Config(), 5.0, 50, 0)
    assert float(taken.std()) < 1e-5 * float(taken.abs().mean()), "no noise at all reaches the gradient"


def test_the_gradient_of_a_network_tells_people_apart_better_than_their_noisy_volumes_do() -> None:
    """A direction is learnt from some noises and tried on others: what it tells is a lower bound of what the gradient does."""
    torch.manual_seed(0)
    network = Wavelet(channels=(8,), norm_groups=4).build(inputs=1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3 * parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1)
    sigma, count = 5.0, 60
    axes = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 8)] * 3, indexing="ij"))
    people = [(1.6 * torch.exp(-(axes.square().sum(dim=0)) / size) - 0.8)[None] for size in (0.30, 0.32)]
    objective = Denoising().build(Trainee(edm.Config(sigma_data=SD).fit(list, [], 0), sigma))
    trained = list(network.parameters())
    rows: list[Tensor] = []
    for seed, x in enumerate(people):
        noise = torch.randn(count, 1, 8, 8, 8, generator=torch.Generator().manual_seed(seed))
        each = []
        for number in range(count):
            loss = objective.loss(network, Examples(x[None]), Drawn(noise[number : number + 1])).sum()
            each.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, trained)]))
        rows.append(torch.stack(each))
    half = count // 2
    scale = torch.cat([each[:half] for each in rows]).std(dim=0) + 1e-12
    direction = (rows[0][:half].mean(dim=0) - rows[1][:half].mean(dim=0)) / scale**2
    found = apart(*(each[half:] @ direction for each in rows))
    released = float((people[0] - people[1]).norm()) / sigma
    assert found > 2.0 * released
