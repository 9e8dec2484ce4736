"""Rows of volumes and sketches against the closed forms of a Gaussian."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Problem
from volgen.core.rng import normal
from volgen.sampling import descent
from volgen.sampling.between import Turned
from volgen.sampling.samplers import ddpm, dpmpp_2m, heun

SHAPE = (1, 12, 12, 12)
MEAN = normal(SHAPE, 1, "mean") * 0.5
VARIANCE = (normal(SHAPE, 2, "variance").square() + 0.05).clamp_max(4.0)
HIGH, LOW = 40.0, 0.002


def gaussian(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
    return MEAN + VARIANCE / (VARIANCE + sigma.view(-1, 1, 1, 1, 1) ** 2) * (y - MEAN)


def grid(points: int, high: float = HIGH) -> list[float]:
    return [(high ** (1 / 7) + step / (points - 1) * (LOW ** (1 / 7) - high ** (1 / 7))) ** 7 for step in range(points)]


def drawn(indices: range, sampler: Any, points: int = 12, high: float = HIGH, seed: int = 0, **settings: Any) -> list[Tensor]:
    path = descent.down(grid(points, high))
    return descent.sample(gaussian, sampler.Config().build(), path, seed=seed, indices=indices, shape=SHAPE, **settings)


def row(seeds: tuple[int, int], volumes: int, sampler: Any, **settings: Any) -> list[Tensor]:
    problem = Problem(lambda noise, sigma: MEAN + (VARIANCE + sigma**2).sqrt() * noise)
    return drawn(range(volumes), sampler, noise=Turned(descent.white, seeds, volumes).draw, problem=problem, seed=99, **settings)


@pytest.mark.parametrize("sampler", [heun, dpmpp_2m, ddpm])
def test_the_ends_of_a_row_are_the_volumes_of_its_seeds_bit_for_bit(sampler: Any) -> None:
    problem = Problem(lambda noise, sigma: MEAN + (VARIANCE + sigma**2).sqrt() * noise)
    first, *between, last = row((3, 8), 5, sampler)
    for volume, seed in ((first, 3), (last, 8)):
        assert torch.equal(volume, drawn(range(1), sampler, problem=problem, seed=seed)[0])
    assert not any(torch.equal(volume, end) for volume in between for end in (first, last))


def test_volumes_between_have_the_covariance_of_the_gaussian() -> None:
    """Of many seeds, voxel by voxel and between neighbours: the angle between two volumes of a row is a part of the right one."""
    rows = torch.stack([torch.stack(row((seed, 1000 + seed), 5, heun, points=40)) for seed in range(16)])
    units_SN = ((rows - MEAN) / VARIANCE.sqrt()).transpose(0, 1).flatten(1)
    spread = units_SN @ units_SN.T / units_SN.shape[1]
    angles = torch.arange(5) * math.pi / 8
    torch.testing.assert_close(spread, torch.cos(angles[:, None] - angles), atol=0.03, rtol=0)


def test_noise_of_every_step_and_of_guidances_is_turned_by_the_volumes_own_fraction() -> None:
    turned = Turned(descent.white, (3, 8), 3)
    for key in (("start", 1), ("step", 4, 1), ("rise", 4, 1), ("guide", 4, 1, 2), ("guide", "start", 1, 2)):
        own = [descent.white(SHAPE, seed, *[0 if place == descent.place_of_index(key) else part for place, part in enumerate(key)])
               for seed in (3, 8)]  # fmt: skip
        torch.testing.assert_close(turned.draw(SHAPE, 5, *key), math.sqrt(0.5) * (own[0] + own[1]))


def edited(x: Tensor, high: float, points: int = 80) -> Tensor:
    """What comes of a sketch in the flow of the Gaussian."""
    return drawn(range(1), heun, points, high, problem=Problem(lambda noise, sigma: x[None] + sigma * noise))[0]


@pytest.mark.parametrize("high", [0.1, 1.0, 10.0])
def test_a_sketch_is_drawn_as_the_flow_of_the_gaussian_takes_it(high: float) -> None:
    sketch, noise = normal(SHAPE, 5, "sketch"), descent.white(SHAPE, 0, "start", 0)
    expected = MEAN + (VARIANCE / (VARIANCE + high**2)).sqrt() * (sketch + high * noise - MEAN)
    torch.testing.assert_close(edited(sketch, high), expected, atol=2e-2, rtol=0)


def test_little_noise_returns_a_sketch_and_much_forgets_it() -> None:
    one, other = normal(SHAPE, 5, "sketch"), normal(SHAPE, 6, "sketch")
    assert (edited(one, 0.004) - one).abs().max() < 0.05
    kept = (edited(one, HIGH) - edited(other, HIGH)).norm() / (one - other).norm()
    assert kept < 1.1 * (VARIANCE / (VARIANCE + HIGH**2)).sqrt().max() < 0.06
