"""The Gaussian mechanism, exactly: mu, epsilon and delta of one noisy release (Balle & Wang 2018; Dong, Roth & Su 2022).

mu is the sensitivity in units of the noise's standard deviation. Everything is computed from logarithms, so that it holds for mu of 1e-3
as for mu of 1000.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.optimize import brentq
from scipy.special import log_ndtr

PRECISE = 1e-12
"""Relative width at which a root counts as found; the side that promises less is taken."""


def delta_of(epsilon: float, mu: float) -> float:
    """delta(epsilon) = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu) (Balle & Wang 2018, theorem 8).

    Args:
        epsilon: at least 0.
        mu: positive.
    """
    first, second = float(log_ndtr(mu / 2 - epsilon / mu)), float(log_ndtr(-mu / 2 - epsilon / mu))
    return max(-math.expm1(min(epsilon + second - first, 0.0)) * math.exp(first), 0.0)


def epsilon_of(mu: float, delta: float) -> float:
    """The least epsilon of a release with ``mu`` > 0 at ``delta`` in (0, 1); 0 if delta alone covers it.

    Raises:
        ValueError: a number is out of its range.
    """
    if not (0.0 < mu < math.inf and 0.0 < delta < 1.0):
        raise ValueError(f"mu {mu} and delta {delta} belong to no Gaussian mechanism")
    if delta_of(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while delta_of(high, mu) > delta:
        high *= 2.0
    return _root(lambda epsilon: delta_of(epsilon, mu) - delta, 0.0, high) * (1.0 + PRECISE)


def mu_of(epsilon: float, delta: float) -> float:
    """The largest mu that a release may have to be (epsilon, delta)-private.

    Raises:
        ValueError: a number is out of its range.
    """
    if not (0.0 < epsilon < math.inf and 0.0 < delta < 1.0):
        raise ValueError(f"epsilon {epsilon} and delta {delta} are no budget")
    low, high = 1.0, 1.0
    while delta_of(epsilon, low) > delta:
        low /= 2.0
    while delta_of(epsilon, high) <= delta:
        high *= 2.0
    return _root(lambda mu: delta_of(epsilon, mu) - delta, low, high) * (1.0 - PRECISE)


def best_guess(mu: float) -> float:
    """How often the best observer tells two inputs apart that are as far from each other as can be: Phi(mu/2), from 0.5 to 1."""
    return math.exp(float(log_ndtr(mu / 2)))


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(function, low, high, xtol=1e-300, rtol=PRECISE / 10))
