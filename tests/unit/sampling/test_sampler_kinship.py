"""Which samplers are the same map, and which are not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.protocols import Sampler, Step
from volgen.sampling.samplers import ddim, ddpm, dpmpp_2m, euler, heun, renoise

NOISE = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
X = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(2))


def denoise(y: Tensor, sigma: Tensor) -> Tensor:
    return torch.tanh(y) / (1 + sigma.view(-1, 1, 1, 1, 1))


def step(sampler: Sampler) -> Tensor:
    return sampler.step(denoise, X, Step(1.5, 0.4, lambda: NOISE), None)[0]


def test_ddim_without_noise_is_euler() -> None:
    torch.testing.assert_close(step(ddim.Config(eta=0.0).build()), step(euler.Config().build()), rtol=1e-6, atol=1e-6)


def test_ddim_with_all_its_noise_is_ddpm() -> None:
    torch.testing.assert_close(step(ddim.Config(eta=1.0).build()), step(ddpm.Config().build()), rtol=1e-5, atol=1e-6)


def test_ddim_in_between_is_neither() -> None:
    between = step(ddim.Config(eta=0.5).build())
    assert (between - step(euler.Config().build())).abs().max() > 0.01
    assert (between - step(ddpm.Config().build())).abs().max() > 0.01


def test_ddim_is_stochastic_only_with_eta() -> None:
    assert not ddim.Config(eta=0.0).build().stochastic
    assert ddim.Config(eta=0.1).build().stochastic


def test_heun_is_the_trapezoidal_rule() -> None:
    a = (X - denoise(X, torch.full((2,), 1.5))) / 1.5
    predicted = X + (0.4 - 1.5) * a
    b = (predicted - denoise(predicted, torch.full((2,), 0.4))) / 0.4
    corrected = X + (0.4 - 1.5) * (a + b) / 2
    solver = heun.Config().build()
    x, memory = solver.step(denoise, X, Step(1.5, 0.4, lambda: NOISE), None)
    torch.testing.assert_close(x, predicted)
    # The correction is made at the beginning of the next step, which at sigma 0 ends on what is denoised from there.
    found, _ = solver.step(denoise, x, Step(0.4, 0.0, lambda: NOISE), memory)
    torch.testing.assert_close(found, denoise(corrected, torch.full((2,), 0.4)))


def test_first_step_of_dpmpp_2m_is_euler_and_the_second_uses_the_past() -> None:
    solver = dpmpp_2m.Config().build()
    x, memory = solver.step(denoise, X, Step(1.5, 0.4, lambda: NOISE), None)
    torch.testing.assert_close(x, step(euler.Config().build()))
    second = Step(0.4, 0.1, lambda: NOISE)
    with_past = solver.step(denoise, x, second, memory)[0]
    assert (with_past - solver.step(denoise, x, second, None)[0]).abs().max() > 1e-3


def test_dpmpp_2m_takes_the_slope_of_the_denoiser_in_log_snr_from_two_unequal_steps() -> None:
    def linear(y: Tensor, sigma: Tensor) -> Tensor:  # D = 0.3 - 0.2 lambda with lambda = -log sigma, wherever y is
        return (0.3 + 0.2 * sigma.log()).view(-1, 1, 1, 1, 1).expand_as(y)

    solver = dpmpp_2m.Config().build()
    x, memory = solver.step(linear, X, Step(2.0, 0.7, lambda: NOISE), None)
    found, _ = solver.step(linear, x, Step(0.7, 0.6, lambda: NOISE), memory)
    middle = 0.3 + 0.2 * (math.log(0.7) + math.log(0.6)) / 2  # D half-way in lambda: the paper's second-order term
    torch.testing.assert_close(found, 0.6 / 0.7 * x + (1 - 0.6 / 0.7) * middle)


def test_eta_outside_its_range_is_refused() -> None:
    with pytest.raises(UserError, match="eta"):
        validate(ddim.Config, {"kind": "ddim", "eta": 1.5}, "--sampler")


def test_a_share_of_fresh_noise_between_euler_and_all_of_it() -> None:
    torch.testing.assert_close(step(renoise.Config(share=1e-12).build()), step(euler.Config().build()), rtol=1e-5, atol=1e-5)
    x0, kept = denoise(X, torch.tensor([1.5])), 0.4 / 1.5 * math.sqrt(0.7)
    torch.testing.assert_close(step(renoise.Config(share=0.3).build()), x0 + kept * (X - x0) + 0.4 * math.sqrt(0.3) * NOISE)
    torch.testing.assert_close(step(renoise.Config().build()), x0 + 0.4 * NOISE)
    assert renoise.Config().build().renoises and not renoise.Config(share=0.3).build().renoises
