"""Every file in volgen/sampling/samplers: the measured order of convergence is the declared one, and the limit is the exact solution.

The oracles are denoisers whose distributions are known. Volumes are [B, 1, N, 1, 1] in float64, so that rounding hides nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from volgen.core.protocols import Denoiser, Sampler, Step
from volgen.core.registry import config_class, kinds

SIGMA_MAX, SIGMA_MIN = 10.0, 0.1
KINDS = kinds("volgen.sampling.samplers")


def build(kind: str) -> Sampler:
    return config_class("volgen.sampling.samplers", kind)().build()  # type: ignore[attr-defined, no-any-return]


def column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, -1, 1, 1)


def gaussian(variances: Tensor) -> Denoiser:
    """E[x0 | y] of independent N(0, v) coefficients."""
    return lambda y, sigma: y * variances / (variances + sigma.view(-1, 1, 1, 1, 1) ** 2)


MIXTURE = [(0.3, -0.6, 0.04), (0.7, 0.5, 0.01)]  # weight, mean, variance


def mixture(y: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | y] of a mixture of two Gaussians: not linear in y."""
    s2 = sigma.view(-1, 1, 1, 1, 1) ** 2
    logits = torch.stack([math.log(w) - 0.5 * torch.log(v + s2) - 0.5 * (y - m) ** 2 / (v + s2) for w, m, v in MIXTURE])
    means = torch.stack([m + (y - m) * v / (v + s2) for _, m, v in MIXTURE])
    return (logits.softmax(dim=0) * means).sum(dim=0)


def mixture_flow(start: Tensor) -> Tensor:
    """The probability-flow ODE of a one-dimensional distribution keeps quantiles: x(s) = F_s^-1(F_S(x(S)))."""

    def cdf(x: Tensor, sigma: float) -> Tensor:
        return sum(w * torch.special.ndtr((x - m) / math.sqrt(v + sigma**2)) for w, m, v in MIXTURE)  # type: ignore[return-value]

    wanted = cdf(start, SIGMA_MAX)
    low, high = torch.full_like(start, -5.0), torch.full_like(start, 5.0)
    for _ in range(80):
        middle = (low + high) / 2
        below = cdf(middle, SIGMA_MIN) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def descend(sampler: Sampler, denoise: Denoiser, start: Tensor, grid: Sequence[float], noise: Callable[[], Tensor]) -> Tensor:
    """From the first point of the grid to the last, which is not 0: the last step to 0 is a projection, not part of the ODE."""
    x, memory = start, None
    for sigma, sigma_next in itertools.pairwise(grid):
        x, memory = sampler.step(denoise, x, Step(sigma, sigma_next, noise), memory)
    return x


def geometric(steps: int) -> list[float]:
    return [float(s) for s in np.geomspace(SIGMA_MAX, SIGMA_MIN, steps + 1)]


def karras(steps: int) -> list[float]:
    return [float(s) for s in np.linspace(SIGMA_MAX ** (1 / 7), SIGMA_MIN ** (1 / 7), steps + 1) ** 7]


def uneven(steps: int) -> list[float]:
    """Step sizes in log sigma that go 1, 2, 1, 2."""
    widths = np.tile([1.0, 2.0], steps // 2 + 1)[:steps]
    position = np.concatenate([[0.0], np.cumsum(widths)]) / widths.sum()
    return [float(s) for s in SIGMA_MAX * (SIGMA_MIN / SIGMA_MAX) ** position]


def slope(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Order of convergence: minus the slope of log error over log steps."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


STEPS = (64, 96, 128, 192, 256)
START = column([-11.0, -4.0, 0.7, 3.0, 9.0])
VARIANCES = column([0.25, 0.01, 1.0, 0.04, 0.16])


DETERMINISTIC = [kind for kind in KINDS if not build(kind).stochastic]
STOCHASTIC = [kind for kind in KINDS if build(kind).stochastic and not build(kind).renoises]
"""Those that follow a path; one that renoises is exact where it is told draws (test_samplers_variance)."""


def silence() -> Tensor:
    return torch.zeros_like(START)


@pytest.mark.parametrize("grid", [geometric, karras, uneven])
@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_measured_order_is_declared_order_on_an_anisotropic_gaussian(kind: str, grid: Callable[[int], list[float]]) -> None:
    sampler = build(kind)
    # The flow ODE dx/ds = (x - D)/s = x s/(v + s^2) is solved by x ~ sqrt(v + s^2).
    exact = START * ((VARIANCES + SIGMA_MIN**2) / (VARIANCES + SIGMA_MAX**2)).sqrt()
    errors = [float(((descend(sampler, gaussian(VARIANCES), START, grid(n), silence) - exact) / exact).abs().mean()) for n in STEPS]
    assert slope(STEPS, errors) == pytest.approx(sampler.order, abs=0.2), errors
    assert errors[-1] < (0.1 if sampler.order == 1 else 0.005), "converges to something else"


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_measured_order_is_declared_order_on_a_mixture(kind: str) -> None:
    sampler, exact = build(kind), mixture_flow(START)
    steps = (128, 192, 256, 384, 512)
    errors = [float((descend(sampler, mixture, START, geometric(n), silence) - exact).abs().mean()) for n in steps]
    assert slope(steps, errors) == pytest.approx(sampler.order, abs=0.25), errors
    assert errors[-1] < 0.02


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_order_of_the_mean_path_of_a_stochastic_sampler_on_a_mixture(kind: str) -> None:
    sampler = build(kind)
    # Without its noise it follows dx/ds = 2 (x - D)/s, the drift of the reverse SDE; RK4 on a fine grid is the reference.
    exact, fine = START, geometric(1000)

    def drift(x: Tensor, s: float) -> Tensor:
        return 2 * (x - mixture(x, torch.tensor([s], dtype=torch.float64))) / s

    for s, s_next in itertools.pairwise(fine):
        h = s_next - s
        k1 = drift(exact, s)
        k2 = drift(exact + h / 2 * k1, s + h / 2)
        k3 = drift(exact + h / 2 * k2, s + h / 2)
        exact = exact + h / 6 * (k1 + 2 * k2 + 2 * k3 + drift(exact + h * k3, s_next))
    errors = [float((descend(sampler, mixture, START, geometric(n), silence) - exact).abs().mean()) for n in STEPS]
    assert slope(STEPS, errors) == pytest.approx(sampler.order, abs=0.2), errors
    assert errors[-1] < 0.02


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_order_of_the_variance_of_a_stochastic_sampler(kind: str) -> None:
    sampler, denoise = build(kind), gaussian(VARIANCES)
    zero, one = torch.zeros_like(VARIANCES), torch.ones_like(VARIANCES)
    errors = []
    for steps in STEPS:
        # A step through a linear denoiser is x' = a x + b z: probing it gives a and b, and so the variance without sampling error.
        variance = VARIANCES + SIGMA_MAX**2
        for sigma, sigma_next in itertools.pairwise(geometric(steps)):
            a, _ = sampler.step(denoise, one, Step(sigma, sigma_next, lambda: zero), None)
            b, _ = sampler.step(denoise, zero, Step(sigma, sigma_next, lambda: one), None)
            variance = a**2 * variance + b**2
        exact = VARIANCES + SIGMA_MIN**2
        errors.append(float(((variance - exact) / exact).abs().mean()))
    assert slope(STEPS, errors) == pytest.approx(sampler.order, abs=0.2), errors
    assert errors[-1] < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_step_returns_the_denoised_volume(kind: str) -> None:
    asked: list[tuple[Tensor, float]] = []

    def denoise(y: Tensor, sigma: Tensor) -> Tensor:
        asked.append((y, float(sigma[0])))
        return gaussian(VARIANCES)(y, sigma)

    sampler = build(kind)
    x, memory = sampler.step(denoise, START, Step(0.5, 0.3, lambda: torch.ones_like(START)), None)
    asked.clear()
    end, _ = sampler.step(denoise, x, Step(0.3, 0.0, lambda: torch.full_like(x, 1e9)), memory)
    assert {sigma for _, sigma in asked} == {0.3}, "the denoiser is never asked about sigma 0"
    corrected = asked[-1][0]  # by a solver that corrects its last prediction first
    torch.testing.assert_close(end, gaussian(VARIANCES)(corrected, torch.tensor([0.3], dtype=torch.float64)), rtol=1e-12, atol=1e-12)
