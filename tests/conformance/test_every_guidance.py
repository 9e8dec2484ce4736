"""Every file in volgen/sampling/guidances makes a denoiser of a denoiser, and says what it needs."""

from __future__ import annotations

import math
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
from volgen.models.preconditioners import v as V
from volgen.operators.inpaint import Config as Inpaint
from volgen.sampling.descent import down, sample
from volgen.sampling.guidances.none import UNGUIDED
from volgen.sampling.samplers import ddpm, renoise

PACKAGE = "volgen.sampling.guidances"
KINDS = kinds(PACKAGE)
SHAPE = (4, 6, 8)
TRUTH = torch.randn(1, 1, *SHAPE, generator=torch.Generator().manual_seed(9)).clamp(-1, 1)


def build(kind: str) -> Guidance:
    config: Any = config_class(PACKAGE, kind)()
    return config.build()  # type: ignore[no-any-return]


def problem(kind: str, share: float = 0.5) -> Problem:
    """What the guidance is for: a measurement of a share of the slices, or samples of the prior."""
    operator = Inpaint(share=share).build(SHAPE, torch.device("cpu"))
    v = V.Config().restore({})
    expected = Problem(v.prior, expected=v.expected, covariance=v.covariance)
    measured = replace(expected, measurement=Measurement(operator, operator.apply(TRUTH), 0.05))
    try:
        build(kind).check(measured)
    except UserError:
        return expected
    return measured


def draw(kind: str, problem: Problem, indices: list[int], guidance: Guidance | None = None) -> dict[int, Tensor]:
    """Volumes of some indices, by a solver that goes with the guidance."""
    guide = guidance or build(kind)
    solver = (renoise if guide.renoises else ddpm).Config().build()
    told = {"problem": problem, "guidance": guide, "seed": 2, "shape": (1, *SHAPE)}
    volumes = sample(denoise, solver, down([6.0, 1.5, 0.4, 0.1]), indices=indices, **told)  # type: ignore[arg-type]
    return dict(zip(indices, volumes, strict=True))


def noises(k: int) -> Tensor:
    return normal((1, 1, *SHAPE), 0, "noise", k)


def denoise(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
    return torch.tanh(y + given.values.get("shift", torch.zeros(1))) / (1 + sigma.view(-1, 1, 1, 1, 1) ** 2)


def test_the_promised_guidances_exist() -> None:
    assert set(KINDS) >= {
        "none", "auto", "projection", "song", "energy", "ddnm", "dds", "dps", "pigdm", "diffpir", "daps", "gauss", "resample",
    }  # fmt: skip


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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "daps"])  # which draws with more than what is known, data or not
def test_a_mask_of_zeros_gives_samples_of_the_prior_bit_for_bit(kind: str) -> None:
    blind = problem(kind, share=0.0)
    if blind.measurement is None:
        return
    # What draws of what is known does so without data too; the others are then their solver alone.
    guide = build(kind) if build(kind).renoises else UNGUIDED
    free, found = draw("none", replace(blind, measurement=None), [0, 1], guide), draw(kind, blind, [0, 1])
    assert all(torch.equal(found[index], free[index]) for index in (0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_volume_depends_on_seed_and_index_alone(kind: str) -> None:
    alone = draw(kind, problem(kind), [2])[2]
    assert torch.isfinite(alone).all()
    assert torch.equal(draw(kind, problem(kind), [5, 2, 0, 1])[2], alone), "in any company"
    guide = build(kind)
    draw(kind, problem(kind), [7], guide)
    assert torch.equal(draw(kind, problem(kind), [2], guide)[2], alone), "whatever was drawn before"
    assert (draw(kind, problem(kind), [1])[1] - alone).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_data_are_agreed_with_better_than_by_samples_of_the_prior(kind: str) -> None:
    asked = problem(kind)
    if asked.measurement is None:
        return
    measured, free = asked.measurement, draw("none", replace(asked, measurement=None), [0])[0]
    left = measured.data - measured.operator.apply(draw(kind, asked, [0])[0][None])
    assert left.norm() < (measured.data - measured.operator.apply(free[None])).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_tells_of_its_steps_is_numbers(kind: str) -> None:
    guide = build(kind)
    draw(kind, problem(kind), [0], guide)
    assert all(isinstance(name, str) and math.isfinite(value) for name, value in guide.noted().items())


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_measured_it_starts_from_the_first_noise_or_refuses(kind: str) -> None:
    guidance = build(kind)
    with suppress(UserError):
        guidance.check(Problem())
        torch.testing.assert_close(guidance.prior(Problem(), 5.0, noises), 5.0 * noises(0))


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_cannot_have_is_refused_in_words(kind: str) -> None:
    whole = problem(kind)
    for asked in (replace(whole, measurement=None), replace(whole, covariance=None), replace(whole, expected=None)):
        refused = None
        with suppress(UserError):
            build(kind).check(asked)
            refused = False
            assert torch.isfinite(draw(kind, asked, [0])[0]).all(), "what is accepted works"
        if refused is None:
            with pytest.raises(UserError, match="--guidance"):
                build(kind).check(asked)
