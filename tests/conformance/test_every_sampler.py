"""Every file in volgen/sampling/samplers keeps the promises of the interface (its order and variance: tests/numerics)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.core.config import Config
from volgen.core.protocols import Sampler, Step
from volgen.core.registry import config_class, kinds, module
from volgen.sampling import descent

PACKAGE = "volgen.sampling.samplers"
KINDS = kinds(PACKAGE)
GRID = [8.0, 3.0, 1.0, 0.3, 0.1]
SHAPE = (4, 6, 5)


def build(kind: str) -> Sampler:
    return config_class(PACKAGE, kind)().build()  # type: ignore[attr-defined, no-any-return]


def denoise(y: Tensor, sigma: Tensor) -> Tensor:
    return torch.tanh(y) * (0.25 / (0.25 + sigma**2)).view(-1, 1, 1, 1, 1)


def draw(kind: str, indices: list[int], **options: Any) -> dict[int, Tensor]:
    volumes = descent.sample(denoise, build(kind), descent.down(GRID), **{"seed": 3, **options}, indices=indices, shape=(1, *SHAPE))
    return dict(zip(indices, volumes, strict=True))


def test_the_promised_samplers_exist() -> None:
    assert set(KINDS) >= {"ddpm", "ddim", "euler", "heun", "dpmpp_2m"}


@pytest.mark.parametrize("kind", KINDS)
def test_file_declares_itself(kind: str) -> None:
    config = config_class(PACKAGE, kind)()
    assert isinstance(config, Config)
    assert config.kind == kind  # type: ignore[attr-defined]
    assert (module(PACKAGE, kind).__doc__ or "").strip(), "the paper and the equation"
    sampler = build(kind)
    assert isinstance(sampler.order, int)
    assert sampler.order >= 1
    assert isinstance(sampler.stochastic, bool)


@pytest.mark.parametrize("kind", KINDS)
def test_it_asks_for_noise_exactly_if_it_is_stochastic(kind: str) -> None:
    asked = 0

    def noise() -> Tensor:
        nonlocal asked
        asked += 1
        return torch.zeros(1, 1, *SHAPE)

    sampler = build(kind)
    sampler.step(denoise, torch.ones(1, 1, *SHAPE), Step(2.0, 1.0, noise), None)
    assert (asked > 0) == sampler.stochastic


@pytest.mark.parametrize("kind", KINDS)
def test_it_looks_only_at_noise_levels_of_the_grid(kind: str) -> None:
    seen: list[float] = []

    def spy(y: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (len(y),)
        seen.extend(sigma.tolist())
        return denoise(y, sigma)

    descent.sample(spy, build(kind), descent.down(GRID), seed=0, indices=[0, 1], shape=(1, *SHAPE))
    asked = [level for level, _ in itertools.groupby(seen)]
    assert asked == [float(torch.tensor(sigma)) for sigma in GRID], "all volumes at one level before the next"


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_remembers_has_one_form_until_the_last_step(kind: str) -> None:
    solver, state, forms = build(kind), torch.ones(1, 1, *SHAPE), []
    memory: Any = None
    for sigma, sigma_next in itertools.pairwise([*GRID, 0.0]):
        state, memory = solver.step(denoise, state, Step(sigma, sigma_next, lambda: torch.zeros(1, 1, *SHAPE)), memory)
        forms.append(None if memory is None else [getattr(item, "shape", type(item)) for item in memory])
    declared = [torch.Size([1, 1, *SHAPE]) if item is Tensor else float for item in solver.remembers]
    assert all((form or []) == declared for form in forms[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_it_asks_as_often_as_it_declares(kind: str) -> None:
    asked: list[float] = []

    def spy(y: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma))
        return denoise(y, sigma)

    solver = build(kind)
    descent.sample(spy, solver, descent.down(GRID), seed=0, indices=[0], shape=(1, *SHAPE))
    assert [asked.count(float(torch.tensor(sigma))) for sigma in GRID] == descent.evaluations(solver, len(GRID))


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_may_have_channels(kind: str) -> None:
    (found,) = descent.sample(denoise, build(kind), descent.down(GRID), seed=3, indices=[0], shape=(4, *SHAPE))
    assert found.shape == (4, *SHAPE) and torch.isfinite(found).all()
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("kind", KINDS)
def test_it_does_not_change_its_input(kind: str) -> None:
    x = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    y, memory = build(kind).step(denoise, x, Step(2.0, 1.0, lambda: torch.ones_like(x)), None)
    assert torch.equal(x, before)
    middle = y.clone()
    build(kind).step(denoise, y, Step(1.0, 0.5, lambda: torch.ones_like(x)), memory)
    assert torch.equal(y, middle)


@pytest.mark.parametrize("kind", KINDS)
def test_sample_depends_on_seed_and_index_alone(kind: str) -> None:
    alone = draw(kind, [2])[2]
    assert torch.equal(draw(kind, [0, 1, 2])[2], alone)
    assert torch.equal(draw(kind, [3, 2, 0, 1])[2], alone)
    assert (draw(kind, [2], seed=4)[2] - alone).abs().max() > 1e-2
    assert (draw(kind, [1])[1] - alone).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_denoiser_of_one_volume_is_obeyed(kind: str) -> None:
    # If the data is a single volume, every sampler must end on it exactly: nothing of the noise is left at sigma 0.
    truth = torch.linspace(-1, 1, 120).reshape(1, *SHAPE)
    (found,) = descent.sample(lambda y, s: truth.expand_as(y), build(kind), descent.down(GRID), seed=0, indices=[0], shape=(1, *SHAPE))
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_works_in_float64(kind: str) -> None:
    x = torch.ones(1, 1, *SHAPE, dtype=torch.float64)
    y, _ = build(kind).step(denoise, x, Step(2.0, 1.0, lambda: torch.ones_like(x)), None)
    assert y.dtype == torch.float64
    assert torch.isfinite(y).all()
