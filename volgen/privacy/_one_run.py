"""What epsilon must at least be, from one trained model: guesses who of many people were in training (Steinke, Nasr & Jagielski 2023).

Each of m people was put in or left out by a fair coin of their own. Somebody who sees the model guesses r of the coins. If training was
(epsilon, delta)-private, too many right guesses are improbable, so many right guesses refute an epsilon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

SHARES = (1.0, 0.5, 0.25)
"""Shares of people that are guessed, the surest ones; each is a test of its own, and tests are paid for."""
LARGEST = 50.0
PRECISE = 1e-4


@dataclass(frozen=True)
class Guesses:
    """What was guessed with one statistic.

    Attributes:
        statistic: name.
        made: number of guesses r.
        right: how many of them were.
    """

    statistic: str
    made: int
    right: int


@dataclass(frozen=True)
class Bound:
    """A lower bound on epsilon.

    Attributes:
        epsilon: with probability ``confidence`` over the coins, training is not (epsilon', delta)-private for any smaller epsilon'; 0 if
            nothing was shown.
        delta: at which.
        confidence: over all tests together (Bonferroni).
        people: coins m.
        tests: number of tests.
        best: the test that gave it.
    """

    epsilon: float
    delta: float
    confidence: float
    people: int
    tests: int
    best: Guesses


def p_value(people: int, made: int, right: int, epsilon: float, delta: float) -> float:
    """Probability of so many right guesses, or more, if training is (epsilon, delta)-private: an upper bound (theorem 5.2).

    Args:
        people: coins m.
        made: guesses r, at most ``people``.
        right: at most ``made``.
        epsilon: at least 0.
        delta: in [0, 1].
    """
    assert 0 <= right <= made <= people and epsilon >= 0.0 and 0.0 <= delta <= 1.0
    chance = 1.0 / (1.0 + np.exp(-epsilon))
    pure = float(binom.sf(right - 1, made, chance))
    if not right:
        return 1.0
    # Mass of right - i ... right - 1 right guesses, by i.
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), made, chance))
    worst = float((below / np.arange(1, right + 1)).max())
    return min(pure + 2.0 * people * delta * worst, 1.0)


def lower_bound(scores: Mapping[str, NDArray[np.float64]], inside: NDArray[np.bool_], delta: float, confidence: float) -> Bound:
    """The largest epsilon that some statistic refutes.

    Args:
        scores: by statistic, one for each person [m]: higher where the person seems to have been in training. The order of people must not
            depend on their coins, because it decides between equal scores.
        inside: what the coins said [m].
        delta: in [0, 1).
        confidence: in (0, 1).

    Raises:
        ValueError: there is nobody to guess.
    """
    if not scores or len(inside) < 2:
        raise ValueError("there are too few people to guess about")
    tests = [guesses for name, values in scores.items() for guesses in _guess(name, values, inside)]
    level = (1.0 - confidence) / len(tests)
    bounds = [_refuted(len(inside), test, delta, level) for test in tests]
    best = max(range(len(tests)), key=lambda test: (bounds[test], -p_value(len(inside), tests[test].made, tests[test].right, 0.0, delta)))
    return Bound(bounds[best], delta, confidence, len(inside), len(tests), tests[best])


def _guess(name: str, scores: NDArray[np.float64], inside: NDArray[np.bool_]) -> Iterator[Guesses]:
    """The highest scores are guessed to be inside and as many of the lowest outside."""
    order = np.argsort(scores, kind="stable")
    for each in _halves(len(scores)):
        right = int(inside[order[-each:]].sum() + (~inside[order[:each]]).sum())
        yield Guesses(name, 2 * each, right)


def _halves(people: int) -> Sequence[int]:
    return sorted({max(1, int(share * people / 2)) for share in SHARES}, reverse=True)


def _refuted(people: int, test: Guesses, delta: float, level: float) -> float:
    """The largest epsilon at which the p-value is still at most ``level``, from below; 0 if that is none."""

    def refutes(epsilon: float) -> bool:
        return p_value(people, test.made, test.right, epsilon, delta) <= level

    if not refutes(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refutes(high) and high < LARGEST:
        low, high = high, 2.0 * high
    while high - low > PRECISE:
        middle = (low + high) / 2.0
        low, high = (middle, high) if refutes(middle) else (low, middle)
    return low
