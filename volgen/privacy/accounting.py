"""What steps of a Poisson-subsampled Gaussian mechanism cost together, and how much noise a budget asks for. One of two doors to Opacus.

Two accountants: ``prv`` composes privacy-loss random variables numerically (Gopi, Lee & Wutschitz 2021) and is tight; ``rdp`` composes
Renyi divergences (Mironov, Talwar & Zhang 2019) and needs some 6 % more noise. Both give upper bounds. Tests compare them with a third,
dp-accounting's privacy-loss distributions. What it costs to replace a patient is counted by ``_loss_distribution.py``.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from volgen.core.errors import UserError
from volgen.privacy.loss_distribution import Pair, composed_epsilon

Accountant = Literal["prv", "rdp"]

TOLERANCE = 0.004
"""Numerical error of an epsilon by ``prv``, relative to it; it is added, so that the number stays an upper bound."""
SMALLEST_ERROR = 1e-4
"""The same, absolute: a finer mesh would cost memory for epsilons that nobody distinguishes."""
FINENESS = 1e-3
"""Relative width at which the search for a noise multiplier ends; the end with more noise is taken."""
DELTAS = (1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Where a profile is taken."""
COARSE = 0.02
"""Numerical error of each epsilon of a profile, absolute; it is added."""
LARGEST_NOISE = 1e6
"""Noise multiplier beyond which nothing could be learnt."""
REMEMBERED = 4096
"""Bounds that each accountant keeps: a training asks for the same ones when it plans, writes its ledger and states what was spent."""

History = tuple[tuple[float, float, int], ...]


@dataclass(frozen=True)
class Steps:
    """Equal steps of training.

    Attributes:
        sampling_rate: probability q in (0, 1] with which each patient, independently of the others, takes part in a step.
        noise_multiplier: standard deviation of the noise on the sum of contributions, in units of the largest one; positive.
        count: how many, at least 0.
    """

    sampling_rate: float
    noise_multiplier: float
    count: int


def epsilon(steps: Iterable[Steps], delta: float, accountant: Accountant = "prv") -> float:
    """Upper bound on the epsilon of all steps together, whatever networks they trained: neighbours differ by one patient, added or removed.

    Args:
        steps: those of every phase of a run; they may differ.
        delta: in (0, 1).
        accountant: which bound.

    Raises:
        ValueError: a number is out of its range.
    """
    _check(delta)
    history = _history(steps)
    if not history:
        return 0.0
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        loose = _rdp(history, delta)
        if accountant == "rdp":
            return loose
        # The mesh follows from an absolute error, so a first look tells how large that may be.
        first = _prv(history, delta, max(TOLERANCE * loose, SMALLEST_ERROR))
        error = max(TOLERANCE * first, SMALLEST_ERROR)
        tight = first if error >= TOLERANCE * loose / 2 else min(first, _prv(history, delta, error))
        # Both bound the same number.
        return min(tight, loose)


def profile(steps: Iterable[Steps], accountant: Accountant = "prv") -> list[tuple[float, float]]:
    """Pairs (epsilon, delta) that all steps together keep, all of them at once: more than one pair says of what a mechanism gives away.

    Raises:
        ValueError: a number is out of its range.
    """
    history = _history(steps)
    if not history:
        return [(0.0, 0.0)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        loose = [_rdp(history, delta) for delta in DELTAS]
        tight = [_prv(history, delta, COARSE) for delta in DELTAS] if accountant == "prv" else loose
    return [(max(min(pair), 0.0), delta) for *pair, delta in zip(loose, tight, DELTAS, strict=True)]


def replace_one(steps: Iterable[Steps], delta: float) -> float:
    """Upper bound on the epsilon of all steps together for neighbours of whom one has another patient in the place of one.

    Each patient's contribution then turns round instead of vanishing, at worst. The number of patients is the same in both.

    Args:
        steps: those of every phase of a run; they may differ.
        delta: in (0, 1).

    Returns:
        Epsilon; infinite where no mesh of a reasonable size can tell.

    Raises:
        ValueError: a number is out of its range.
    """
    _check(delta)
    history = _history(steps)
    return _replaced(history, delta) if history else 0.0


def calibrate(target: float, delta: float, sampling_rate: float, count: int, accountant: Accountant = "prv") -> float:
    """The least noise multiplier, up to 0.1 %, with which ``count`` steps stay within (target, delta).

    Args:
        target: epsilon, positive.
        delta: in (0, 1).
        sampling_rate: in (0, 1].
        count: steps, at least 1.
        accountant: which bound.

    Raises:
        UserError: no noise multiplier up to a million is enough.
        ValueError: a number is out of its range.
    """
    if not (math.isfinite(target) and target > 0.0):
        raise ValueError(f"epsilon is {target}, which is not a positive number")
    if count < 1:
        raise ValueError(f"{count} steps are nothing to calibrate")

    def cost(noise: float) -> float:
        return epsilon([Steps(sampling_rate, noise, count)], delta, accountant)

    high = 1.0
    while cost(high) > target:
        high *= 2.0
        if high > LARGEST_NOISE:
            found = f"{target:g} at delta {delta:g} cannot be kept for {count} steps at sampling rate {sampling_rate:g}"
            raise UserError("privacy.epsilon", found, "a larger budget, or fewer steps")
    low = high / 2.0
    while cost(low) <= target:
        low, high = low / 2.0, low
    while high / low > 1.0 + FINENESS:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return high


def _history(steps: Iterable[Steps]) -> History:
    """The steps like Opacus has them: (noise multiplier, sampling rate, count), equal steps together."""
    total: Counter[tuple[float, float]] = Counter()
    for part in steps:
        if not (0.0 < part.sampling_rate <= 1.0 and part.noise_multiplier > 0.0 and part.count >= 0):
            raise ValueError(f"{part} is no step of a subsampled Gaussian mechanism")
        total[part.noise_multiplier, part.sampling_rate] += part.count
    return tuple((noise, rate, count) for (noise, rate), count in sorted(total.items()) if count)


@lru_cache(REMEMBERED)
def _replaced(history: History, delta: float) -> float:
    return composed_epsilon([(Pair(rate, noise), count) for noise, rate, count in history], delta)


def _rdp(history: History, delta: float) -> float:
    from opacus.accountants.analysis.rdp import get_privacy_spent

    total = np.sum([_divergences(noise, rate) * count for noise, rate, count in history], axis=0)
    bound, _ = get_privacy_spent(orders=_ORDERS, rdp=total, delta=delta)
    return float(bound)


@lru_cache(REMEMBERED)
def _divergences(noise: float, rate: float) -> NDArray[np.float64]:
    """Renyi divergences of one step at all orders: what takes half a second, and is the same however many steps follow."""
    from opacus.accountants.analysis.rdp import compute_rdp

    found: NDArray[np.float64] = compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=_ORDERS)
    return found


@lru_cache(REMEMBERED)
def _prv(history: History, delta: float, error: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(history)
    try:
        bound = float(accountant.get_epsilon(delta, eps_error=error))
    except (RuntimeError, ValueError, MemoryError):  # a mesh too fine for float64: the other bound holds all the same
        return math.inf
    return bound if math.isfinite(bound) else math.inf


def _check(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta is {delta}, which is not between 0 and 1")


_ORDERS = (
    [1.0 + tenth / 10.0 for tenth in range(1, 100)] + [float(order) for order in range(11, 64)] + [2.0**power for power in range(6, 13)]
)
"""Opacus' own orders and larger ones, for much noise."""
