"""Inversion, round trip and translation against the closed forms of Gaussian classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.sampling.samplers import ddim, heun
from volgen.sampling.translation import Between, Bridge, Told

SHAPE = (1, 6, 6, 6)
MEANS = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1)).double() * 0.5
VARIANCES = (torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(2)) * 9 + 0.05).double()
"""Of the voxels, from 0.05 to 9; the same in both classes."""


def classes(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
    mean = MEANS[int(given.values["group"])]
    return mean + VARIANCES / (VARIANCES + sigma.view(-1, 1, 1, 1, 1) ** 2) * (y - mean)


def told(group: int) -> Told:
    return Told(classes, Given(values={"group": torch.tensor([group])}))


def bridge(steps: int, sampler: Any = heun) -> Bridge:
    low, high, rho = 0.002, 80.0, 7.0
    grid = [(high ** (1 / rho) + step / (steps - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for step in range(steps)]
    return Bridge(sampler.Config().build(), grid, torch.device("cpu"))


def person(seed: int = 0) -> Tensor:
    """Somebody of class 0."""
    z = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(seed)).double()
    return (MEANS[0] + VARIANCES.sqrt() * z)[0]


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def test_the_noise_of_a_volume_is_that_of_the_closed_form_to_second_order() -> None:
    def error(steps: int) -> float:
        way = bridge(steps)
        low, high = way.grid[-1], way.grid[0]
        expected = MEANS[0] + ((VARIANCES + high**2) / (VARIANCES + low**2)).sqrt() * (person() - MEANS[0])
        found = way.up(told(0), person())
        assert rms(found) / high == pytest.approx(1.0, abs=0.15)
        return rms(found - expected[0]) / high

    assert error(50) < 6e-3 and error(100) < error(50) / 3


@pytest.mark.parametrize(("sampler", "steps", "most", "least"), [(heun, 50, 1e-3, 0.0), (heun, 25, 8e-3, 1e-4), (ddim, 50, 0.3, 0.02)])
def test_a_scan_comes_back_by_heuns_solver(sampler: Any, steps: int, most: float, least: float) -> None:
    way = bridge(steps, sampler)
    error = rms(way.down(told(0), way.up(told(0), person())) - person())
    assert least < error < most


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_classes_of_one_covariance_are_translated_by_the_difference_of_their_means(strength: float) -> None:
    way = bridge(50)
    translated = way.down(Between(told(0), told(1), strength), way.up(told(0), person()))
    low, high = way.grid[-1], way.grid[0]
    kept = 1 - ((VARIANCES + low**2) / (VARIANCES + high**2)).sqrt()
    assert float(kept.min()) > 0.9 and float(kept.max()) < 1.0
    expected = strength * kept * (MEANS[1] - MEANS[0])
    assert rms(translated - person() - expected[0]) < 1e-3 * (1 + strength)


def test_a_translation_comes_back() -> None:
    way = bridge(50)
    there = way.down(told(1), way.up(told(0), person()))
    assert rms(way.down(told(0), way.up(told(1), there)) - person()) < 2e-3


def test_the_ends_are_asked_alone() -> None:
    asked: list[str] = []

    def of(name: str) -> Any:
        def denoise(y: Tensor, sigma: Tensor, given: Given = NOTHING) -> Tensor:
            asked.append(name)
            return y * 0.5

        return denoise

    y, sigma = torch.zeros(1, *SHAPE), torch.ones(1)
    for strength, expected in ((0.0, ["one"]), (1.0, ["other"]), (0.5, ["one", "other"])):
        asked.clear()
        Between(of("one"), of("other"), strength)(y, sigma)
        assert asked == expected
