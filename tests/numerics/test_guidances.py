"""What guidance can be exact about: a Gaussian prior and a linear measurement have a known posterior.

Everything is affine in the noise, so mean and covariance follow without drawing: from the noises 0 and e_j. State [1, N, 1, 1].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Guidance, Measurement, Noises, Operator, Problem
from volgen.core.registry import config_class
from volgen.sampling import descent

N, NOISE = 6, 0.2
DRAWN = torch.Generator().manual_seed(0)
MEAN = torch.randn(N, generator=DRAWN, dtype=torch.float64)
ROOT = torch.randn(N, N, generator=DRAWN, dtype=torch.float64) / 2
PRIOR = ROOT @ ROOT.T + 0.05 * torch.eye(N, dtype=torch.float64)
ROW = torch.randn(N, generator=DRAWN, dtype=torch.float64)
DATA = 0.7
GRID = [float(level) for level in np.geomspace(60.0, 0.004, 140)]


def prior(sigma: float) -> Tensor:
    """Covariance of x0 given y at a noise level, C; the gain D' is C / sigma^2."""
    return sigma**2 * PRIOR @ torch.linalg.inv(PRIOR + sigma**2 * torch.eye(N, dtype=torch.float64))


def denoise(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
    sigma = float(sigma_B[0])
    gain = (prior(sigma) / sigma**2).to(y_BCXYZ.dtype)
    return ((y_BCXYZ.flatten() - MEAN) @ gain.T + MEAN).reshape(y_BCXYZ.shape)


class OneRow(Operator):
    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        return (x_BCXYZ.flatten(1) * ROW).sum(dim=1)

    def adjoint(self, data: Tensor) -> Tensor:
        return (data[:, None] * ROW).reshape(-1, 1, N, 1, 1)


class Exact(Guidance):
    """D + C a (y - a D) / (a C a + s^2), with the covariance that is known."""

    def covariance(self, denoise: Denoiser, y: Tensor, sigma_B: Tensor) -> tuple[Tensor, Tensor]:
        return denoise(y, sigma_B), (prior(float(sigma_B[0])) @ ROW).reshape(y.shape)

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        measured = problem.measurement
        assert measured is not None

        def guided(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            x0, spread = self.covariance(denoise, y_BCXYZ, sigma_B)
            missing = measured.data - measured.operator.apply(x0)
            return (x0 + spread * missing / (measured.operator.apply(spread) + measured.noise**2)).detach()

        return guided


class ByGradient(Exact):
    """The same, with C a = sigma^2 d(a D)/dx: what it costs to know nothing of the prior is a gradient."""

    differentiates = True

    def covariance(self, denoise: Denoiser, y: Tensor, sigma_B: Tensor) -> tuple[Tensor, Tensor]:
        y = y.detach().requires_grad_()
        x0 = denoise(y, sigma_B)
        (slope,) = torch.autograd.grad((x0.flatten() * ROW).sum(), y)
        return x0.detach(), float(sigma_B[0]) ** 2 * slope


def affine(kind: str, guidance: Guidance, problem: Problem) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what a deterministic solver draws."""

    def unit(shape: Any, seed: int, *key: int | str) -> Tensor:
        noise = torch.zeros(shape, dtype=torch.float64)
        if key[0] == "start" and int(key[1]) < N:
            noise[0, int(key[1])] = 1.0
        return noise

    solver = config_class("volgen.sampling.samplers", kind)().build()  # type: ignore[attr-defined]
    drawn = descent.sample(
        denoise, solver, descent.down(GRID), seed=0, indices=range(N + 1), shape=(1, N, 1, 1), problem=problem, noise=unit,
        guidance=guidance,
    )  # fmt: skip
    mean = drawn[-1].flatten()
    columns = torch.stack([one.flatten() - mean for one in drawn[:-1]], dim=1)
    return mean, columns @ columns.T


def start(noise: Tensor, sigma: float) -> Tensor:
    return MEAN.reshape(1, 1, N, 1, 1) + noise * sigma


@pytest.mark.parametrize("kind", ["heun", "dpmpp_2m"])
@pytest.mark.parametrize("guidance", [Exact(), ByGradient()])
def test_the_posterior_of_a_gaussian_is_drawn(kind: str, guidance: Guidance) -> None:
    gain = PRIOR @ ROW / (ROW @ PRIOR @ ROW + NOISE**2)
    mean, covariance = MEAN + gain * (DATA - ROW @ MEAN), PRIOR - torch.outer(gain, ROW @ PRIOR)
    measurement = Measurement(OneRow(), torch.tensor([DATA], dtype=torch.float64), NOISE)
    found = affine(kind, guidance, Problem(start, measurement))
    deviation = covariance.diagonal().sqrt()
    assert ((found[0] - mean) / deviation).abs().max() < 0.02
    assert (found[1] - covariance).norm() < 0.03 * covariance.norm()
    unguided = affine(kind, config_class("volgen.sampling.guidances", "none")().build(), Problem(start, measurement))  # type: ignore[attr-defined]
    assert (unguided[1] - PRIOR).norm() < 0.03 * PRIOR.norm(), "and the prior without guidance"
    assert (covariance - PRIOR).norm() > 0.2 * PRIOR.norm()
