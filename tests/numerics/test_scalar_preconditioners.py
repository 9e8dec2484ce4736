"""Scalar preconditioners against the exact denoiser of a Gaussian, and against each one's own definition of what the network predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.core.registry import config_class
from volgen.models.denoiser import Network, Preconditioner

SIGMAS = torch.tensor([0.02, 0.3, 1.0, 4.0, 80.0], dtype=torch.float64)
SHAPE = (5, 1, 4, 2, 2)


def made(kind: str, **settings: float) -> Preconditioner:
    config: Any = config_class("volgen.models.preconditioners", kind).model_validate(settings)
    return config.fit(list, [], 0)  # type: ignore[no-any-return]


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def over(value_B: Tensor) -> Tensor:
    return value_B.view(-1, 1, 1, 1, 1)


def ideal(multiple: Callable[[Tensor], Tensor]) -> Network:
    """The network of Gaussian data returns a multiple of its input, which depends on the noise level that it is told."""
    return lambda x_BCXYZ, noise_B: over(multiple((4 * noise_B).exp())) * x_BCXYZ


def posterior(target: str, d: float) -> Callable[[Tensor], Tensor]:
    """E[target | network input] / network input for x0 ~ N(0, d^2), y = x0 + s z: ratios of covariances, from the papers' definitions."""

    def ratio(s: Tensor) -> Tensor:
        alpha = (1 + s**2).rsqrt()  # variance-preserving scale: x = alpha y
        total = d**2 + s**2
        match target:
            case "x0":  # input alpha y; Cov(x0, alpha y) / Var(alpha y)
                return d**2 / (alpha * total)
            case "epsilon":  # Cov(z, alpha y) / Var(alpha y)
                return s / (alpha * total)
            case "v":  # v = alpha z - s alpha x0
                return (alpha * s - s * alpha * d**2) / (alpha * total)
            case "flow":  # t = s / (1 + s), input x_t = (1 - t) y, target z - x0
                return (s - d**2) * (1 + s) / total
            case _:  # edm with sigma_data = d: the skip path is exact
                return torch.zeros_like(s)

    return ratio


@pytest.mark.parametrize("d", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["x0", "epsilon", "v", "flow", "edm"])
def test_with_the_ideal_network_each_is_the_exact_denoiser_of_a_gaussian(kind: str, d: float) -> None:
    preconditioner = made(kind, **({"sigma_data": d} if kind == "edm" else {}))
    y = normal(1) * over((d**2 + SIGMAS**2).sqrt())
    x0 = preconditioner.denoise(ideal(posterior(kind, d)), y, SIGMAS)
    # The network's output is rounded to float32, and epsilon and flow multiply it by sigma or so.
    torch.testing.assert_close(x0, over(d**2 / (d**2 + SIGMAS**2)) * y, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", ["x0", "epsilon", "v", "flow"])
def test_a_network_that_returns_its_target_recovers_the_clean_volume(kind: str) -> None:
    clean, z = normal(1), normal(2)
    alpha = over((1 + SIGMAS**2).rsqrt())
    targets = {"x0": clean, "epsilon": z, "v": alpha * z - over(SIGMAS) * alpha * clean, "flow": z - clean}
    y = clean + over(SIGMAS) * z
    found = made(kind).denoise(lambda x, n: targets[kind], y, SIGMAS)
    torch.testing.assert_close(found, clean, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("d", [0.3, 2.0])
def test_edm_gives_its_network_a_target_of_unit_variance(d: float) -> None:
    # Karras et al. 2022, appendix B.6: Var(c_in y) = 1 and Var((x0 - c_skip y) / c_out) = 1.
    preconditioner = made("edm", sigma_data=d)
    seen: list[Tensor] = []

    def network(x: Tensor, noise: Tensor) -> Tensor:
        seen.append(x)
        return torch.ones_like(x)

    one = torch.ones(SHAPE, dtype=torch.float64)
    out = preconditioner.denoise(network, 0 * one, SIGMAS)[:, 0, 0, 0, 0]
    skip = preconditioner.denoise(lambda x, n: 0 * x, one, SIGMAS)[:, 0, 0, 0, 0]
    preconditioner.denoise(network, one, SIGMAS)
    c_in = seen[-1][:, 0, 0, 0, 0]
    torch.testing.assert_close(c_in**2 * (d**2 + SIGMAS**2), torch.ones_like(SIGMAS))
    torch.testing.assert_close(((1 - skip) ** 2 * d**2 + skip**2 * SIGMAS**2) / out**2, torch.ones_like(SIGMAS))
    torch.testing.assert_close(preconditioner.weight(SIGMAS) * out**2, torch.ones_like(SIGMAS))


@pytest.mark.parametrize("kind", ["x0", "epsilon", "v", "flow", "edm"])
def test_scalar_start_is_noise_alone_and_leaving_someone_out_changes_nothing(kind: str) -> None:
    preconditioner = made(kind)
    assert torch.equal(preconditioner.prior(normal(1), 7.0), 7.0 * normal(1))
    assert preconditioner.held_out([0, 3]) is preconditioner
    assert preconditioner.state() == {}
