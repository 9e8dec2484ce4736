"""An expert of a coarser level as a denoiser of whole volumes, against posterior means written out with matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from volgen.core.registry import config_class
from volgen.models.denoiser import PreconditionedDenoiser
from volgen.models.haar import low_pass, means, pyramid, spread, unpyramid
from volgen.models.model import ExpertModel, sigma_of_means
from volgen.models.preconditioners.gaussian import Config, GaussianPreconditioner, Statistics

SHAPE = (12, 12, 12)
SIZE = math.prod(SHAPE)
CONFIG = Config(levels=2, rank=3, rank_level=2)
SIGMAS = torch.tensor([0.05, 0.7, 6.0], dtype=torch.float64)
LEVELS = (1, 2)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian() -> GaussianPreconditioner:
    """Whose components are orthonormal, and whose residual variance does not mix with them."""
    corner = tuple(size >> 2 for size in SHAPE)
    components = torch.linalg.qr(random(1, math.prod(corner), 3))[0].T.reshape(1, 3, *corner)
    residual = random(2, *SHAPE).square() + 0.01
    residual[low_pass(SHAPE, 2)] = 0.3
    return GaussianPreconditioner(CONFIG, Statistics(random(3, 1, *SHAPE), components, residual, torch.tensor([2.0, 0.9, 0.4]).double()))


def model(level: int) -> ExpertModel:
    network = config_class("volgen.models.networks", "wavelet_unet3d")()
    return ExpertModel(network, config_class("volgen.models.views", "whole")(), level)  # type: ignore[arg-type]


def posterior(prior: Tensor, mean: Tensor, y: Tensor, sigma_B: Tensor) -> Tensor:
    """E[x0 | y] of N(mean, prior), with an inverse for each volume."""
    rows = [
        mean + prior @ torch.linalg.solve(prior + sigma**2 * torch.eye(len(mean), dtype=torch.float64), row - mean)
        for row, sigma in zip(y.flatten(1), sigma_B, strict=True)
    ]
    return torch.stack(rows).view(y.shape)


def moments(preconditioner: GaussianPreconditioner, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of voxels, from what `start` makes of each unit vector."""
    zero = preconditioner.prior(torch.zeros(1, 1, *shape, dtype=torch.float64), 0.0)
    count = math.prod(shape)
    root = (preconditioner.prior(torch.eye(count, dtype=torch.float64).view(count, 1, *shape), 0.0) - zero).flatten(1)
    return zero.flatten(), root.T @ root


@pytest.mark.parametrize("level", LEVELS)
def test_means_of_white_noise_are_white_at_the_scaled_noise_level(level: int) -> None:
    columns = means(torch.eye(SIZE, dtype=torch.float64).view(SIZE, 1, *SHAPE), level).flatten(1)
    expected = torch.eye(columns.shape[1], dtype=torch.float64) * sigma_of_means(1.0, level) ** 2
    torch.testing.assert_close(columns.T @ columns, expected)


@pytest.mark.parametrize("level", LEVELS)
def test_means_are_the_scaled_corner_and_spreading_is_what_comes_back_of_it(level: int) -> None:
    x = random(5, 2, 1, *SHAPE)
    corner = low_pass(SHAPE, level)
    torch.testing.assert_close(means(x, level), pyramid(x, level)[corner] * 2 ** (-1.5 * level))
    alone = torch.zeros_like(x)
    alone[corner] = means(x, level) * 2 ** (1.5 * level)
    torch.testing.assert_close(spread(means(x, level), level), unpyramid(alone, level))


@pytest.mark.parametrize("level", LEVELS)
def test_the_gaussian_of_a_level_is_that_of_the_means(level: int) -> None:
    shape = tuple(size >> level for size in SHAPE)
    mean, covariance = moments(gaussian(), SHAPE)
    block = means(torch.eye(SIZE, dtype=torch.float64).view(SIZE, 1, *SHAPE), level).flatten(1)
    found_mean, found = moments(gaussian().coarse(level), shape)
    torch.testing.assert_close(found_mean, mean @ block)
    torch.testing.assert_close(found, block.T @ covariance @ block)


@pytest.mark.parametrize("level", [0, *LEVELS])
def test_with_a_silent_network_the_whole_volume_is_the_posterior_mean_of_a_gaussian_cohort(level: int) -> None:
    y = random(6, 3, 1, *SHAPE) * 2
    mean, covariance = moments(gaussian(), SHAPE)
    denoise = model(level).denoiser(lambda inputs, noise: torch.zeros_like(inputs[:, :1]), gaussian())
    torch.testing.assert_close(denoise(y, SIGMAS), posterior(covariance, mean, y, SIGMAS))


@pytest.mark.parametrize("level", LEVELS)
def test_the_corner_is_the_experts_and_finer_bands_are_what_is_expected(level: int) -> None:
    y, corner = random(7, 3, 1, *SHAPE), low_pass(SHAPE, level)
    asked: list[tuple[Tensor, Tensor]] = []

    def network(inputs: Tensor, noise: Tensor) -> Tensor:
        asked.append((inputs, noise))
        return inputs[:, :1].sin()

    found = pyramid(model(level).denoiser(network, gaussian())(y, SIGMAS), level)
    inner = PreconditionedDenoiser(network, gaussian().coarse(level))(means(y, level), sigma_of_means(SIGMAS, level))
    expected = pyramid(gaussian().expected(y, SIGMAS), level)
    torch.testing.assert_close(found[corner], inner * 2 ** (1.5 * level))
    found[corner] = expected[corner] = 0.0
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(asked[0][1], (SIGMAS / 2 ** (1.5 * level)).log() / 4)
    assert asked[0][0].shape == (3, 2, *(size >> level for size in SHAPE))


def test_one_fit_serves_all_levels() -> None:
    volumes = [random(seed, *SHAPE).float() * 0.3 + random(99, *SHAPE).float() * random(seed + 50, 1).float() for seed in range(12)]
    people = [str(number) for number in range(len(volumes))]
    of_means = Config(levels=1, rank=3, rank_level=1).fit(lambda: (means(x[None, None], 1)[0, 0] for x in volumes), people, 0)
    of_all = CONFIG.fit(lambda: iter(volumes), people, 0).coarse(1)
    y, sigma = means(volumes[0][None, None], 1) + 0.4, torch.tensor([0.5])
    torch.testing.assert_close(of_all.expected(y, sigma), of_means.expected(y, sigma), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_all.held_out([0]).expected(y, sigma), of_means.held_out([0]).expected(y, sigma), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_all.weight(sigma), of_means.weight(sigma), rtol=1e-4, atol=0)
