"""Every file in volgen/sampling/samplers: samples of a Gaussian with an exact denoiser have that Gaussian's variance.

One volume of many independent voxels is one draw of all of them. The Monte-Carlo error of a standard deviation over n values is
std / sqrt(2 n), so 0.0016 * std here.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from volgen.core.noise import choose
from volgen.core.registry import config_class, kinds
from volgen.sampling import descent
from volgen.sampling.samplers.ddim import Config as DDIMConfig
from volgen.sampling.samplers.ddpm import Config as DDPMConfig
from volgen.sampling.samplers.renoise import Config as RenoiseConfig
from volgen.sampling.schedules.vp_linear import Config as VPLinear

VARIANCE = 0.25
SHAPE = (50, 50, 80)
ERROR = 4 / math.sqrt(2 * math.prod(SHAPE))  # four standard errors, relative


def denoise(y: Tensor, sigma: Tensor) -> Tensor:
    return y * (VARIANCE / (VARIANCE + sigma**2)).view(-1, 1, 1, 1, 1)


def drawing(y: Tensor, sigma: Tensor) -> Tensor:
    """A draw of x0 given y: what a solver that renoises wants to be told."""
    drawn = torch.randn(y.shape, generator=torch.Generator().manual_seed(int(1e6 * float(sigma[0]))))
    return denoise(y, sigma) + drawn * (VARIANCE * sigma**2 / (VARIANCE + sigma**2)).sqrt().view(-1, 1, 1, 1, 1)


def std(sampler: object, grid: list[float]) -> float:
    (volume,) = descent.sample(denoise, sampler, descent.down(grid), seed=5, indices=[0], shape=(1, *SHAPE))  # type: ignore[arg-type]
    return float(volume.double().std())


def predicted(grid: list[float], eta: float) -> float:
    """Standard deviation after ancestral steps through a linear denoiser, by the recursion of the variance in closed form.

    x' = x0 + down/sigma (x - x0) + up z with x0 = g x, so var' = (g + down/sigma (1 - g))^2 var + up^2.
    """
    variance = grid[0] ** 2
    for sigma, sigma_next in itertools.pairwise([*grid, 0.0]):
        gain = VARIANCE / (VARIANCE + sigma**2)
        up2 = eta**2 * sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2
        down = math.sqrt(sigma_next**2 - up2)
        variance = (gain + down / sigma * (1 - gain)) ** 2 * variance + up2
    return math.sqrt(variance)


@pytest.mark.parametrize("steps", [1000, 600, 300])
@pytest.mark.parametrize("kind", kinds("volgen.sampling.samplers"))
def test_many_steps_give_the_variance_of_the_data(kind: str, steps: int) -> None:
    grid = choose(VPLinear(points=1000).grid(), steps)
    sampler = config_class("volgen.sampling.samplers", kind)().build()  # type: ignore[attr-defined]
    shape = (24, 24, 24)
    told = drawing if sampler.renoises else denoise
    (volume,) = descent.sample(told, sampler, descent.down(grid), seed=5, indices=[0], shape=(1, *shape))
    # First-order solvers are short of variance by O(1/steps); a schedule strided with the wrong betas is off by a factor.
    tolerance = 0.5 * (4 / math.sqrt(2 * math.prod(shape)) + (0.03 if sampler.order == 1 else 0.0) * 1000 / steps)
    assert float(volume.double().std()) == pytest.approx(0.5, abs=tolerance)


@pytest.mark.parametrize(("points", "steps"), [(50, None), (200, None), (1000, 50), (1000, 7)])
def test_ddpm_has_the_variance_of_the_exact_posterior_strided_or_not(points: int, steps: int | None) -> None:
    grid = VPLinear(points=points).grid(steps)
    assert std(DDPMConfig().build(), grid) == pytest.approx(predicted(grid, 1.0), rel=ERROR)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_has_the_variance_that_eta_asks_for(eta: float) -> None:
    grid = VPLinear(points=1000).grid(60)
    assert std(DDIMConfig(eta=eta).build(), grid) == pytest.approx(predicted(grid, eta), rel=ERROR)


def test_fifty_of_a_thousand_steps_match_the_known_value() -> None:
    # Computed independently for this denoiser and schedule: 0.443; a scheduler that takes the wrong betas gives 0.935.
    assert predicted(VPLinear(points=1000).grid(50), 1.0) == pytest.approx(0.443, abs=0.005)


@pytest.mark.parametrize("grid", [[80.0], [80.0, 1.0], [80.0, 0.5, 0.01]])
def test_who_renoises_draws_has_the_variance_in_any_number_of_steps(grid: list[float]) -> None:
    (volume,) = descent.sample(drawing, RenoiseConfig().build(), descent.down(grid), seed=5, indices=[0], shape=(1, *SHAPE))
    assert float(volume.double().std()) == pytest.approx(0.5, rel=ERROR)


def test_who_renoises_what_is_expected_has_half_the_variance() -> None:
    # var' = g^2 var + s'^2 with g = v / (v + s^2); as steps become small the variance of x0 goes to v / 2.
    grid = [20.0 * 0.98**step for step in range(400)]
    assert std(RenoiseConfig().build(), grid) ** 2 == pytest.approx(VARIANCE / 2, rel=0.04)
