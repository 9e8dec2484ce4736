"""A descent that climbs, as a linear map of all its noise: no sampling error, and the moments of a Gaussian cohort are known."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Problem, Sampler, Step
from volgen.core.registry import config_class, kinds
from volgen.models.corners import FittedCorners
from volgen.models.haar import low_pass, pyramid
from volgen.models.preconditioners.gaussian import Config, GaussianPreconditioner, Statistics
from volgen.sampling.climb import FULL, Climb, Climbing, never_rise
from volgen.sampling.descent import Descent

SHAPE = (4, 4, 8)
SIZE = math.prod(SHAPE)
HIGHEST, LOWEST = 8.0, 0.1
KINDS = kinds("volgen.sampling.samplers")
CPU = torch.device("cpu")


def build(kind: str) -> Sampler:
    return config_class("volgen.sampling.samplers", kind)().build()  # type: ignore[attr-defined, no-any-return]


SOLVERS = [kind for kind in KINDS if not build(kind).renoises]  # one that renoises forgets its way
DETERMINISTIC = [kind for kind in KINDS if not build(kind).stochastic]


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian() -> GaussianPreconditioner:
    """Whose residual variance does not mix with its component."""
    residual = random(2, *SHAPE).square() * 0.3 + 0.02
    residual[low_pass(SHAPE, 2)] = 0.4
    components = random(1, 1, 1, 1, 1, 2)
    return GaussianPreconditioner(
        Config(levels=2, rank=1, rank_level=2),
        Statistics(random(3, 1, *SHAPE), components / components.norm(), residual, torch.tensor([2.0]).double()),
    )


CORNERS = FittedCorners(gaussian())


class Known:
    """The exact denoiser of the Gaussian cohort, of volumes and of corners of any level; counts the voxels that it is asked about."""

    def __init__(self) -> None:
        self.voxels: list[int] = []

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        self.voxels.append(math.prod(y_BCXYZ.shape[2:]))
        return CORNERS.expected((SHAPE[0] // y_BCXYZ.shape[2]).bit_length() - 1, y_BCXYZ, sigma_B)


class Probes:
    """Noise that is 0 in the first channel; in the others each of its numbers, whatever it is drawn for, is 1 in turn."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.first: dict[tuple[int | str, ...], int] = {}
        self.drawn = 0

    def __call__(self, shape: tuple[int, ...], seed: int, *key: int | str) -> Tensor:
        size = math.prod(shape[1:])
        if key not in self.first:
            self.first[key], self.drawn = self.drawn, self.drawn + size
        channels = torch.arange(self.channels) - 1 - self.first[key]
        return (channels[:, None] == torch.arange(size)).double().view(self.channels, *shape[1:])


def path(steps: int) -> list[tuple[float, float]]:
    """Not to 0: the last step is a projection."""
    return list(itertools.pairwise(float(sigma) for sigma in np.geomspace(HIGHEST, LOWEST, steps + 1)))


def levels(steps: int) -> list[int]:
    """Level 2 for a third of the steps, level 1 for another."""
    return [2] * (steps // 3) + [1] * (steps // 3) + [0] * (steps - 2 * (steps // 3)) + [0]


def drawn(sampler: Sampler, steps: int, climb: Climb, noise: Any, count: int, denoise: Any = None) -> Tensor:
    """Of one descent with so many channels, each of which the denoiser takes for a volume."""
    problem = Problem(lambda z, sigma: CORNERS.noised(climb.level(0), z, sigma))
    descent = Descent(denoise or Known(), sampler, path(steps), 0, (count, *SHAPE), CPU, problem, noise, climb=climb)
    state = descent.begin(0)
    for number in range(steps):
        assert state.x_BCXYZ.shape == (1, *descent.shape_before(number))
        state = descent.advance(state, number, 0)
    return state.x_BCXYZ[0]


def moments(sampler: Sampler, steps: int, climb: Climb) -> tuple[Tensor, Tensor]:
    """Mean and covariance of voxels, without sampling error."""
    counting = Probes(1)
    drawn(sampler, steps, climb, counting, 1)
    count = 1 + counting.drawn
    made = drawn(sampler, steps, climb, Probes(count), count).flatten(1)
    root = made[1:] - made[0]
    return made[0], root.T @ root


def cohort(sigma: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the cohort under noise."""
    made = CORNERS.noised(0, torch.cat([torch.zeros(1, SIZE), torch.eye(SIZE)]).double().view(1, SIZE + 1, *SHAPE), sigma)[0].flatten(1)
    root = made[1:] - made[0]
    return made[0], root.T @ root


def slope(steps: list[int], errors: list[float]) -> float:
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


@pytest.mark.parametrize("kind", SOLVERS)
def test_mean_and_covariance_of_a_gaussian_cohort_are_exact_in_the_limit_of_many_steps(kind: str) -> None:
    steps, (mean, covariance) = [24, 48, 96], cohort(LOWEST)
    errors = []
    for count in steps:
        found_mean, found = moments(build(kind), count, Climbing(levels(count), CORNERS))
        torch.testing.assert_close(found_mean, mean, rtol=0, atol=1e-10)
        errors.append(float((found - covariance).norm() / covariance.norm()))
    assert slope(steps, errors) == pytest.approx(build(kind).order, abs=0.3), errors
    assert errors[-1] < (0.06 if build(kind).order == 1 else 0.002)


@pytest.mark.parametrize("kind", KINDS)
def test_climbing_and_whole_volumes_have_the_same_corner_which_knows_nothing_of_what_is_drawn(kind: str) -> None:
    steps = 9
    _, climbed = moments(build(kind), steps, Climbing(levels(steps), CORNERS))
    _, whole = moments(build(kind), steps, FULL)
    haar = pyramid(torch.eye(SIZE, dtype=torch.float64).view(SIZE, 1, *SHAPE), 2).view(SIZE, SIZE)
    climbed, whole = (haar.T @ covariance @ haar for covariance in (climbed, whole))
    inside = torch.zeros(SHAPE, dtype=torch.bool)
    inside[low_pass(SHAPE, 2)] = True
    corner = inside.flatten()
    torch.testing.assert_close(climbed[corner][:, corner], whole[corner][:, corner], rtol=0, atol=1e-10)
    assert max(found[corner][:, ~corner].abs().max() for found in (climbed, whole)) < 1e-10


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_order_across_borders_on_the_exact_flow_of_every_band(kind: str) -> None:
    """Bands that were drawn stay on the path of the probability flow of their own noise, and the corner on that of its own."""
    sampler, steps = build(kind), [48, 96, 192]
    errors = []
    for count in steps:
        noises: dict[Any, Tensor] = {}

        def noise(shape: tuple[int, ...], seed: int, *key: int | str, kept: dict[Any, Tensor] = noises) -> Tensor:
            return kept.setdefault(key, random(len(kept) + 7, *shape))

        found = drawn(sampler, count, Climbing(levels(count), CORNERS), noise, 1)
        start, middle, fine = (value[None] for value in noises.values())
        exact = CORNERS.joined(CORNERS.noised(1, middle, LOWEST), CORNERS.noised(2, start, LOWEST))
        exact = CORNERS.joined(CORNERS.noised(0, fine, LOWEST), exact)
        errors.append(float((found - exact[0]).abs().mean()))
    assert slope(steps, errors) == pytest.approx(sampler.order, abs=0.2), errors


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_order_across_a_border_where_the_corner_is_no_gaussian(kind: str) -> None:
    def denoise(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
        """The corner has two values, each voxel by itself; finer bands are the cohort's."""
        level = (SHAPE[0] // y.shape[2]).bit_length() - 1
        corner = pyramid(y, 2 - level)[low_pass(y.shape[2:], 2 - level)]
        two = torch.tanh(corner / (sigma.view(-1, 1, 1, 1, 1) ** 2 + 0.3)) * (1 / (1 + 0.3 / (sigma.view(-1, 1, 1, 1, 1) ** 2 + 0.01)))
        return CORNERS.joined(CORNERS.expected(level, y, sigma), two) if level < 2 else two

    def noise(shape: tuple[int, ...], seed: int, *key: int | str) -> Tensor:
        return random(math.prod(shape), *shape)

    sampler, steps = build(kind), [24, 48, 96]
    made = [drawn(sampler, count, Climbing(levels(count), CORNERS), noise, 1, denoise) for count in (*steps, 1536)]
    errors = [float((found - made[-1]).abs().mean()) for found in made[:-1]]
    assert slope(steps, errors) == pytest.approx(sampler.order, abs=0.3), errors


def test_what_dpmpp_2m_remembers_of_drawn_bands_is_what_the_gaussian_expected_there() -> None:
    sampler, noise, corner = build("dpmpp_2m"), random(1, 1, 1, *SHAPE), random(2, 1, 1, 1, 1, 2)
    step = Step(3.0, 1.5, lambda: noise)
    x, memory = Climbing([2, 0, 0], CORNERS).rise(sampler, 0, step, corner, (corner * 0.5, 3.0), lambda: noise)
    sigma = torch.tensor([3.0]).double()
    torch.testing.assert_close(x, CORNERS.joined(CORNERS.noised(0, noise, 1.5), corner))
    torch.testing.assert_close(memory[0], CORNERS.joined(CORNERS.expected(0, CORNERS.noised(0, noise, 3.0), sigma), corner * 0.5))
    assert memory[1] == 3.0


def test_work_at_high_noise_is_that_of_the_corner() -> None:
    denoise, asked = Known(), Known()
    sizes: dict[Any, int] = {}

    def noise(shape: tuple[int, ...], seed: int, *key: int | str) -> Tensor:
        sizes[key] = math.prod(shape)
        return random(0, *shape)

    drawn(build("ddpm"), 9, Climbing(levels(9), CORNERS), noise, 1, denoise)
    assert denoise.voxels == [SIZE // 64] * 3 + [SIZE // 8] * 3 + [SIZE] * 3
    assert sizes["start", 0] == SIZE // 64 and sizes["rise", 2, 0] == SIZE // 8 and sizes["rise", 5, 0] == SIZE
    drawn(build("ddpm"), 9, FULL, noise, 1, asked)
    assert asked.voxels == [SIZE] * 9


def test_a_single_coarse_level_ends_in_whole_volumes_of_the_cohort() -> None:
    _, covariance = cohort(LOWEST)
    _, found = moments(build("heun"), 48, Climbing([1] * 48 + [0], CORNERS))
    torch.testing.assert_close(found, covariance, rtol=0, atol=0.01 * float(covariance.norm()))


def test_levels_that_rise_again_are_no_climb() -> None:
    assert never_rise([2, 2, 1, 0]) and never_rise([0]) and not never_rise([1, 2, 0])
