"""Every file in volgen/sampling/guidances makes a denoiser of a denoiser, and says what it needs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Guidance, Measurement, Problem
from volgen.core.registry import config_class, kinds, module
from volgen.core.rng import normal
from volgen.operators.inpaint import Config as Inpaint

PACKAGE = "volgen.sampling.guidances"
KINDS = kinds(PACKAGE)
SHAPE = (4, 6, 8)
TRUTH = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(9)).clamp(-1, 1)


def build(kind: str) -> Guidance:
    config: Any = config_class(PACKAGE, kind)()
    return config.build()  # type: ignore[no-any-return]


def problem(kind: str) -> Problem:
    """What the guidance is for: a measurement, or samples of the prior."""
    operator = Inpaint().build(SHAPE, torch.device("cpu"))
    expected = Problem(expected=lambda y, sigma: y / (1 + sigma.view(-1, 1, 1, 1, 1) ** 2))
    measured = replace(expected, measurement=Measurement(operator, operator.apply(TRUTH)))
    try:
        build(kind).check(measured)
    except UserError:
        return expected
    return measured


def noises(k: int) -> Tensor:
    return normal((1, 1, *SHAPE), 0, "noise", k)


def denoise(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
    return torch.tanh(y + given.values.get("shift", torch.zeros(1))) / (1 + sigma.view(-1, 1, 1, 1, 1) ** 2)


def test_the_promised_guidances_exist() -> None:
    assert set(KINDS) >= {"none", "auto", "projection"}


@pytest.mark.parametrize("kind", KINDS)
def test_file_declares_itself(kind: str) -> None:
    assert config_class(PACKAGE, kind)().kind == kind  # type: ignore[attr-defined]
    assert (module(PACKAGE, kind).__doc__ or "").strip()
    guidance = build(kind)
    assert isinstance(guidance.differentiates, bool) and isinstance(guidance.renoises, bool)


@pytest.mark.parametrize("kind", KINDS)
def test_it_makes_a_denoiser_that_is_a_function_of_its_arguments_and_the_noise(kind: str) -> None:
    guidance, y, sigma = build(kind), noises(7) * 2, torch.tensor([2.0])
    guidance.check(problem(kind))
    before = y.clone()
    with torch.set_grad_enabled(guidance.differentiates):
        first = guidance.guide(denoise, problem(kind), noises)(y, sigma)
        again = guidance.guide(denoise, problem(kind), noises)(y, sigma)
    assert first.shape == y.shape and first.dtype == y.dtype and torch.isfinite(first).all()
    assert torch.equal(first, again) and torch.equal(y, before)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_reaches_the_denoiser(kind: str) -> None:
    guidance, y, sigma = build(kind), noises(7) * 2, torch.tensor([2.0])
    with torch.set_grad_enabled(guidance.differentiates):
        guided = guidance.guide(denoise, problem(kind), noises)
        told = guided(y, sigma, Given(values={"shift": torch.ones(1)}))
        assert not torch.equal(told, guided(y, sigma))


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_measured_it_starts_from_the_first_noise_or_refuses(kind: str) -> None:
    guidance = build(kind)
    with suppress(UserError):
        guidance.check(Problem())
        torch.testing.assert_close(guidance.prior(Problem(), 5.0, noises), 5.0 * noises(0))
