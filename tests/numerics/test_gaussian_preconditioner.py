"""The skip path against the posterior of the Gaussian, with every covariance written out as a matrix."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from volgen.models.haar import low_pass, unpyramid
from volgen.models.preconditioners.gaussian import Config, GaussianPreconditioner, Statistics

SHAPE = (4, 4, 4)
SIZE = math.prod(SHAPE)
SIGMAS = (0.05, 0.7, 6.0)
RANK = 2


def statistics(config: Config, residual: str) -> Statistics:
    """A Gaussian whose components and residual variances do not mix: both terms of the skip path are then exact.

    ``constant``: one residual variance everywhere. ``apart``: it varies, and is the same wherever a component is not 0.
    """
    random = torch.Generator().manual_seed(0)
    corner = tuple(size >> config.rank_level for size in SHAPE)
    support = torch.zeros(corner, dtype=torch.float64).flatten()
    support[:5] = 1.0
    directions = torch.randn(RANK, math.prod(corner), generator=random, dtype=torch.float64) * support
    components = torch.linalg.qr(directions.T)[0].T.view(RANK, *corner)
    v = torch.full(SHAPE, 0.3, dtype=torch.float64)
    if residual == "apart":
        v = torch.rand(SHAPE, generator=random, dtype=torch.float64)
        place = low_pass(SHAPE, config.rank_level)
        v[place] = torch.where(support.view(corner) > 0, torch.tensor(0.3, dtype=torch.float64), v[place])
    mean = torch.randn(1, *SHAPE, generator=random, dtype=torch.float64)
    return Statistics(mean, components[None], v, torch.tensor([2.0, 0.9], dtype=torch.float64))


def basis(levels: int) -> Tensor:
    """Columns: the voxels of each coefficient."""
    return unpyramid(torch.eye(SIZE, dtype=torch.float64).view(SIZE, 1, *SHAPE), levels).flatten(1).T


def covariance(config: Config, s: Statistics) -> Tensor:
    """U l U^T + (1 - U U^T) v (1 - U U^T), of coefficients: [SIZE, SIZE]."""
    rank = s.components.shape[1]
    full = torch.zeros(rank, *SHAPE, dtype=torch.float64)
    full[low_pass(SHAPE, config.rank_level)] = s.components[0]
    u = full.flatten(1).T
    outside = torch.eye(SIZE, dtype=torch.float64) - u @ u.T
    return u @ s.variances.diag() @ u.T + outside @ s.residual.flatten().diag() @ outside


CASES = [
    (Config(levels=2, rank=RANK, rank_level=1), "constant"), (Config(levels=1, rank=RANK, rank_level=1), "apart"),
    (Config(levels=2, rank=RANK, rank_level=0), "apart"), (Config(levels=0, rank=RANK, rank_level=0), "constant"),
]  # fmt: skip


def volumes(count: int) -> Tensor:
    return 2 * torch.randn(count, 1, *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(("config", "residual"), CASES)
def test_the_skip_path_is_the_posterior_mean(config: Config, residual: str, sigma: float) -> None:
    s = statistics(config, residual)
    w = basis(config.levels)
    prior = w @ covariance(config, s) @ w.T  # of voxels
    mean = w @ s.mean.flatten()
    y = volumes(3)
    gain = prior @ torch.linalg.inv(prior + sigma**2 * torch.eye(SIZE, dtype=torch.float64))
    expected = mean + (y.flatten(1) - mean) @ gain.T
    found = GaussianPreconditioner(config, s).expected(y, torch.full((3,), sigma, dtype=torch.float64))
    torch.testing.assert_close(found.flatten(1), expected)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_without_components_the_posterior_is_exact_for_any_variances(levels: int, sigma: float) -> None:
    config = Config(levels=levels, rank=0, rank_level=0)
    v = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    s = replace(
        statistics(Config(levels=levels, rank_level=0), "constant"), residual=v, variances=torch.zeros(0, dtype=torch.float64),
        components=torch.zeros(1, 0, *SHAPE, dtype=torch.float64),
    )  # fmt: skip
    w = basis(levels)
    prior, mean, y = w @ v.flatten().diag() @ w.T, w @ s.mean.flatten(), volumes(2)
    posterior = torch.linalg.inv(torch.linalg.inv(prior) + torch.eye(SIZE, dtype=torch.float64) / sigma**2)
    expected = mean + (y.flatten(1) - mean) @ posterior / sigma**2
    preconditioner = GaussianPreconditioner(config, s)
    sigma_B = torch.full((2,), sigma, dtype=torch.float64)
    torch.testing.assert_close(preconditioner.expected(y, sigma_B).flatten(1), expected)
    torch.testing.assert_close(preconditioner._variance(sigma_B)[0].flatten(), (w.T @ posterior @ w).diagonal())
    torch.testing.assert_close(preconditioner.weight(sigma_B)[0], 1 / posterior.diagonal().mean())


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(("config", "residual"), CASES)
def test_the_error_of_the_skip_path_is_at_most_what_the_scale_says(config: Config, residual: str, sigma: float) -> None:
    # e(s) adds the variance along the components to that of whole coefficients, so it is above the posterior variance by no more than
    # the residual's own along the components: sum_j U_j^2 s^2 v / (v + s^2).
    s = statistics(config, residual)
    prior = covariance(config, s)
    posterior = prior - prior @ torch.linalg.inv(prior + sigma**2 * torch.eye(SIZE, dtype=torch.float64)) @ prior
    found = GaussianPreconditioner(config, s)._variance(torch.tensor([sigma], dtype=torch.float64))[0, 0]
    excess = torch.zeros(SHAPE, dtype=torch.float64)
    excess[low_pass(SHAPE, config.rank_level)] = (s.components[0] ** 2).sum(dim=0) * sigma**2 * 0.3 / (0.3 + sigma**2)
    torch.testing.assert_close((found - excess).flatten(), posterior.diagonal())


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(("config", "residual"), CASES)
def test_start_is_a_sample_of_the_noisy_data(config: Config, residual: str, sigma: float) -> None:
    # start is affine in the noise: its columns, from the unit vectors, give mean and covariance without drawing anything.
    s = statistics(config, residual)
    preconditioner = GaussianPreconditioner(config, s)
    w = basis(config.levels)
    mean = preconditioner.prior(torch.zeros(1, 1, *SHAPE, dtype=torch.float64), sigma).flatten()
    columns = preconditioner.prior(torch.eye(SIZE, dtype=torch.float64).view(SIZE, 1, *SHAPE), sigma).flatten(1) - mean
    torch.testing.assert_close(mean, w @ s.mean.flatten())
    expected = w @ covariance(config, s) @ w.T + sigma**2 * torch.eye(SIZE, dtype=torch.float64)
    torch.testing.assert_close(columns.T @ columns, expected)


def test_the_networks_scale_is_the_posterior_deviation_of_voxels_over_neighbours() -> None:
    config, sigma = Config(levels=1, rank=RANK, rank_level=1), torch.tensor([0.7], dtype=torch.float64)
    preconditioner = GaussianPreconditioner(config, statistics(config, "apart"))
    y = volumes(1)
    heard = preconditioner.denoise(lambda x, n: torch.ones_like(x[:, :1]), y, sigma) - preconditioner.expected(y, sigma)
    w = basis(1)
    variance = (w**2 @ preconditioner._variance(sigma).flatten()).view(SHAPE)
    for x in range(4):
        for yy in range(4):
            for z in range(4):
                around = variance[max(x - 1, 0) : x + 2, max(yy - 1, 0) : yy + 2, max(z - 1, 0) : z + 2]
                assert float(heard[0, 0, x, yy, z]) == pytest.approx(float(around.mean().sqrt()), rel=1e-5)


def test_a_fitted_gaussian_denoises_new_volumes_as_well_as_it_says() -> None:
    # A diagonal Gaussian in wavelet coefficients plus two strong directions; the fit sees 60 volumes, and 40 new ones are denoised.
    random = torch.Generator().manual_seed(2)
    shape = (8, 8, 8)
    deviation = 0.05 + 0.3 * torch.rand(shape, generator=random)
    directions = torch.randn(2, *shape, generator=random)

    def draw(count: int) -> list[Tensor]:
        detail = deviation * torch.randn(count, 1, *shape, generator=random)
        shared = torch.einsum("br,rxyz->bxyz", torch.randn(count, 2, generator=random), directions)
        return [*(unpyramid(detail, 1)[:, 0] + shared)]

    train, new = draw(60), draw(40)
    config = Config(levels=1, rank=4, rank_level=0, folds=6)
    preconditioner = config.fit(lambda: iter(train), [str(i) for i in range(60)], 0)
    clean = torch.stack(new)[:, None]
    for sigma in (0.1, 0.5, 3.0):
        y = clean + sigma * torch.randn(clean.shape, generator=random)
        sigma_B = torch.full((40,), sigma)
        x0 = preconditioner.denoise(lambda x, n: torch.zeros_like(x[:, :1]), y, sigma_B)
        loss = float(((x0 - clean).square().mean(dim=(1, 2, 3, 4)) * preconditioner.weight(sigma_B)).mean())
        assert 0.8 < loss < 1.2, f"the loss of an untrained network at sigma {sigma}"
        assert (x0 - clean).square().mean() < 0.8 * (y - clean).square().mean()


@pytest.mark.parametrize(("sigma", "to"), [(6.0, 0.0), (6.0, 0.7), (0.7, 0.05), (0.05, 6.0)])
@pytest.mark.parametrize(("config", "residual"), CASES)
def test_the_flow_is_the_solution_of_the_probability_flow(config: Config, residual: str, sigma: float, to: float) -> None:
    """m + (S + s'^2)^(1/2) (S + s^2)^(-1/2) (x - m), by eigenvectors."""
    s = statistics(config, residual)
    w = basis(config.levels)
    mean, y = w @ s.mean.flatten(), volumes(3)
    values, vectors = torch.linalg.eigh(w @ covariance(config, s) @ w.T)
    grown = vectors @ ((values + to**2) / (values + sigma**2)).sqrt().diag() @ vectors.T
    flow = GaussianPreconditioner(config, s).flow_map
    assert flow is not None
    at, end = (torch.full((3,), level, dtype=torch.float64) for level in (sigma, to))
    torch.testing.assert_close(flow(y, at, end).flatten(1), mean + (y.flatten(1) - mean) @ grown)
