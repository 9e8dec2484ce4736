"""The fitted Gaussian as a method: the denoiser of N(m, t^2 C), and a spread that training finds."""

from __future__ import annotations

import torch

from volgen.core.protocols import Shape3
from volgen.methods.gaussian import SpreadDenoiser, SpreadOfPeople
from volgen.models.preconditioners.gaussian import Config, GaussianPreconditioner

SHAPE: Shape3 = (4, 4, 4)
PEOPLE = 400


def fitted() -> tuple[GaussianPreconditioner, torch.Tensor, torch.Tensor]:
    """A Gaussian whose voxels are independent, of the variances that it was drawn with, and these."""
    random = torch.Generator().manual_seed(0)
    deviation, mean = torch.rand(SHAPE, generator=random) + 0.5, torch.rand(SHAPE, generator=random)
    people = mean + deviation * torch.randn(PEOPLE, *SHAPE, generator=random)
    found = Config(levels=0, rank=0, rank_level=0, folds=2).fit(lambda: iter(people), [str(n) for n in range(PEOPLE)], 0)
    assert isinstance(found, GaussianPreconditioner)
    return found, found.statistics.mean[0], found.statistics.residual


def test_an_untrained_one_is_the_fitted_gaussian_and_another_is_that_of_wider_people() -> None:
    preconditioner, mean, variance = fitted()
    y, sigma, spread = torch.randn(2, 1, *SHAPE), torch.tensor([0.5, 3.0]), SpreadOfPeople()
    denoise = SpreadDenoiser(spread, preconditioner)
    assert torch.equal(denoise(y, sigma), preconditioner.expected(y, sigma))
    with torch.no_grad():
        spread.logarithm.fill_(0.7)
    wider, over = variance * torch.tensor(1.4).exp(), sigma[:, None, None, None, None] ** 2
    torch.testing.assert_close(denoise(y, sigma), mean + wider / (wider + over) * (y - mean), rtol=1e-5, atol=1e-6)
    assert torch.equal(denoise.weight(sigma), preconditioner.weight(sigma))


def test_the_loss_is_smallest_where_the_spread_is_that_of_people() -> None:
    """People who spread 1.5 times as wide as those of the fit: gradient descent on the denoising loss finds 1.5."""
    preconditioner, mean, variance = fitted()
    random, spread = torch.Generator().manual_seed(1), SpreadOfPeople()
    denoise, optimiser = SpreadDenoiser(spread, preconditioner), torch.optim.Adam(spread.parameters(), 0.02)
    for _ in range(150):
        x = mean + 1.5 * variance.sqrt() * torch.randn(64, 1, *SHAPE, generator=random)
        sigma = torch.full((64,), 1.0)
        loss = (denoise(x + torch.randn(x.shape, generator=random), sigma) - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert abs(float(spread.logarithm.detach().exp()) - 1.5) < 0.05
