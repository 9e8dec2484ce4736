"""One scan under local differential privacy: the clip, the noise, and what is called vacuous."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from volgen.privacy.gaussian import delta_of
from volgen.privacy.local import Clip, ScanBudget, certificate, needed_sigma, release
from volgen.privacy.secret import Secret

SHAPE = (6, 5, 4)
KEY = bytes(range(32))


def volume(seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


@pytest.mark.parametrize("radius", [None, 0.5, 3.0, 100.0])
def test_no_two_clipped_scans_are_further_apart_than_the_sensitivity(radius: float | None) -> None:
    clip = Clip(volume(0, 0.1).clamp(-1, 1), radius)
    ends = [torch.ones(SHAPE), -torch.ones(SHAPE), volume(1, 1e9), volume(2), torch.full(SHAPE, math.inf), torch.full(SHAPE, math.nan)]
    clipped = [clip(end) for end in ends]
    assert max(float((a - b).norm()) for a in clipped for b in clipped) <= clip.sensitivity
    assert all(float(c.abs().max()) <= 1.0 for c in clipped)
    if radius is not None:
        assert all(float((c - clip.centre_XYZ).norm()) <= radius for c in clipped)
    if radius == 0.5:
        opposite = [clip(clip.centre_XYZ + sign * volume(3, 5.0)) for sign in (1, -1)]
        assert float((opposite[0] - opposite[1]).norm()) > 0.9 * clip.sensitivity, "the bound is met, not merely kept"


def test_the_sensitivity_is_the_diameter_of_the_cube_or_of_the_ball() -> None:
    zero = torch.zeros(SHAPE, dtype=torch.float64)
    assert Clip(zero).sensitivity == 2 * math.sqrt(120)
    assert Clip(zero, 2.0).sensitivity == 4.0
    assert Clip(zero, 1e6).sensitivity == 2 * math.sqrt(120)


def test_what_is_inside_stays_as_it_is() -> None:
    x = volume(0, 0.05)
    assert torch.equal(Clip(torch.zeros(SHAPE, dtype=torch.float64), 50.0)(x), x)


def test_the_noise_has_the_promised_size_and_is_new_each_time() -> None:
    clip, x = Clip(torch.zeros(64, 64, 32, dtype=torch.float64)), torch.zeros(64, 64, 32)
    noise = release(clip, x, 3.0, Secret())
    assert float(noise.std()) == pytest.approx(3.0, rel=0.01) and abs(float(noise.mean())) < 0.05
    assert float((noise / 3.0).pow(4).mean()) == pytest.approx(3.0, rel=0.05)
    assert not torch.equal(noise, release(clip, x, 3.0, Secret()))


def test_calibrated_noise_meets_the_budget_exactly() -> None:
    sigma = needed_sigma(2.0, 1e-5, 7.0)
    assert ScanBudget(7.0, sigma, 1e-5).epsilon == pytest.approx(2.0, rel=1e-6)
    assert delta_of(2.0, 7.0 / sigma) <= 1e-5 < delta_of(2.0, 7.0 / (sigma * 0.999))


@pytest.mark.parametrize(("mu", "delta", "vacuous"), [(1.9, 1e-5, False), (2.1, 1e-5, True), (52.0, 1e-5, True), (0.1, 0.01, True)])
def test_a_vacuous_budget_is_called_vacuous(mu: float, delta: float, vacuous: bool) -> None:
    budget = ScanBudget(mu, 1.0, delta)
    assert budget.vacuous is vacuous and ("VACUOUS" in budget.meaning) is vacuous
    content = certificate(Clip(torch.zeros(SHAPE)), "mid-grey", budget, (1.0, delta), {})
    assert content["vacuous"] is vacuous and content["mu"] == mu and content["d"] == 120 and content["meaning"] == budget.meaning


def test_streams_of_one_secret_are_functions_of_their_label() -> None:
    assert torch.equal(Secret(KEY).normal((5,), "a", 1), Secret(KEY).normal((5,), "a", 1))
    for other in (("a", 2), ("a", "1"), ("b", 1)):
        assert not torch.equal(Secret(KEY).normal((5,), "a", 1), Secret(KEY).normal((5,), *other))
    assert not torch.equal(Secret(KEY).normal((5,), "a"), Secret(KEY[::-1]).normal((5,), "a"))
    assert Secret().hex() != Secret().hex()
    numbers = np.array([Secret(KEY).chance("u", n) for n in range(10_000)])
    assert numbers.min() >= 0.0 and numbers.max() < 1.0 and abs(numbers.mean() - 0.5) < 0.02
