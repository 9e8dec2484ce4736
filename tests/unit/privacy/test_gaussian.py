"""The exact Gaussian mechanism: reference figures, and an integral done another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from volgen.privacy.gaussian import best_guess, delta_of, epsilon_of, mu_of


@pytest.mark.parametrize(("mu", "epsilon"), [(1, 4.377), (2, 9.997), (5, 33.10), (10, 91.82)])
def test_reference_figures_at_delta_1e_5(mu: float, epsilon: float) -> None:
    assert epsilon_of(mu, 1e-5) == pytest.approx(epsilon, rel=2e-4)


def test_the_last_level_of_the_usual_schedule_is_vacuous_at_256_cubed() -> None:
    assert epsilon_of(52.0, 1e-5) == pytest.approx(1575, rel=5e-3)


@pytest.mark.parametrize(("epsilon", "mu"), [(0.1, 0.05), (1.0, 0.5), (3.0, 1.5), (5.0, 1.0)])
def test_delta_is_the_hockey_stick_divergence(epsilon: float, mu: float) -> None:
    """delta = integral of max(0, p - e^epsilon q) for p = N(mu, 1) and q = N(0, 1)."""

    def excess(x: float) -> float:
        return max(float(stats.norm.pdf(x - mu) - math.exp(epsilon) * stats.norm.pdf(x)), 0.0)

    border = epsilon / mu + mu / 2
    truth, _ = integrate.quad(excess, border, border + 20.0)
    assert delta_of(epsilon, mu) == pytest.approx(truth, rel=1e-6)


@given(st.floats(1e-3, 500.0), st.floats(1e-10, 0.3))
def test_calibration_is_the_inverse_and_errs_on_the_safe_side(epsilon: float, delta: float) -> None:
    mu = mu_of(epsilon, delta)
    assert delta_of(epsilon, mu) <= delta < delta_of(epsilon, mu * (1 + 1e-6))
    assert epsilon_of(mu, delta) == pytest.approx(epsilon, rel=1e-6, abs=1e-9)


def test_n_releases_are_one_with_sqrt_n_times_mu() -> None:
    """Monte Carlo of the privacy loss of four releases together."""
    mu, epsilon = 0.5, 1.0
    loss = np.random.default_rng(0).normal(mu, 1.0, (400_000, 4)) * mu - mu**2 / 2
    total = loss.sum(axis=1)
    measured = np.maximum(0.0, 1.0 - np.exp(epsilon - total)).mean()
    assert measured == pytest.approx(delta_of(epsilon, 2 * mu), rel=0.02)


def test_how_well_the_best_observer_guesses() -> None:
    assert best_guess(1e-9) == pytest.approx(0.5)
    assert best_guess(2.0) == pytest.approx(float(stats.norm.cdf(1.0)))


@pytest.mark.parametrize("numbers", [(0.0, 0.1), (-1.0, 0.1), (1.0, 0.0), (1.0, 1.0), (math.nan, 0.1), (math.inf, 0.1)])
def test_impossible_numbers_are_refused(numbers: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"budget"):
        mu_of(*numbers)
    with pytest.raises(ValueError, match=r"mechanism"):
        epsilon_of(*numbers)


def test_little_noise_that_delta_alone_covers_costs_no_epsilon() -> None:
    assert epsilon_of(1e-3, 0.1) == 0.0
