"""What epsilon must at least be, from one trained model: guesses who of many people were in training.

Each of m people was put in or left out by a fair coin of their own. Somebody who sees the model guesses r of the coins. If training was
private, many right guesses are improbable, so that they refute a claim. How improbable has two upper bounds, and as both bound
the same probability, the smaller of them does:

* of an (epsilon, delta) claim: Steinke, Nasr & Jagielski 2023, theorem 5.2;
* of any trade-off function (:mod:`volgen.privacy.trade_off`): Mahloujifar, Melis & Chaudhuri 2024. So it can be asked of (epsilon, delta),
  of mu-GDP (that training leaks as a Gaussian mechanism does, which holds nearly for many noisy steps), and of the very steps of a ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from volgen.privacy.gaussian import epsilon_of, mu_of
from volgen.privacy.trade_off import Gaussian, Pairs, TradeOff

SHARES = (1.0, 0.5, 0.25)
"""Shares of people that are guessed, the surest ones; each is a test of its own, and tests are paid for."""
LARGEST = 50.0
PRECISE = 1e-4
SMALLEST = 1e-15
"""Probabilities below it are not told apart."""


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
    """Lower bounds on what training gives away.

    Attributes:
        epsilon: with probability ``confidence`` over the coins, training is not (epsilon', delta)-private for any smaller epsilon'; 0 if
            nothing was shown. Nothing is assumed about how training leaks.
        delta: at which.
        confidence: over all tests together (Bonferroni); of each of the two bounds.
        people: coins m.
        tests: number of tests.
        best: the test that gave it.
        mu: likewise, training is not mu'-GDP for any smaller mu'; 0 if nothing was shown.
        gaussian_epsilon: ``mu`` in the words of ``epsilon``, at ``delta``: a bound on epsilon only if training leaks as a Gaussian
            mechanism does.
        gaussian_best: the test that gave ``mu``.
    """

    epsilon: float
    delta: float
    confidence: float
    people: int
    tests: int
    best: Guesses
    mu: float
    gaussian_epsilon: float
    gaussian_best: Guesses


@dataclass(frozen=True)
class Claim:
    """How a claim bears what was guessed.

    Attributes:
        p_value: if the claim were true, a test would have had as many right guesses as the most surprising one had, or more, with at most
            this probability; of that test alone.
        level: what it has to be compared with: one minus the confidence, over the number of tests (Bonferroni).
        tests: number of tests.
        best: the most surprising one.
    """

    p_value: float
    level: float
    tests: int
    best: Guesses

    @property
    def refuted(self) -> bool:
        """Whether the claim is refuted at the confidence that was asked for."""
        return self.p_value <= self.level


def p_value(people: int, made: int, right: int, epsilon: float, delta: float) -> float:
    """Probability of ``right`` right guesses or more, if training is (epsilon, delta)-private: the bound of Steinke et al. 2023.

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


def too_many(people: int, made: int, right: int, claim: TradeOff, level: float) -> bool:
    """Whether ``right`` right guesses or more have a probability below ``level`` if training is private as claimed.

    The recursion of Mahloujifar et al. 2024 (algorithm 3 for two answers), by which the claim would have to hold for all events "i or more
    guesses are right, and that about a random person is one of them". Flipping that person's coin makes it "i - 1 or more are right, and
    that guess is wrong". So, with p_i the probability of i right guesses, R_i = sum over j >= i of p_j j / m and W_i = the same of
    p_j (r - j) / m: W_(i-1) >= least(R_i). Where the tail is ``level`` or more, that forces more probability than there is.

    Args:
        people: coins m.
        made: guesses r, at most ``people``.
        right: at most ``made``.
        claim: what is claimed.
        level: in (0, 1].
    """
    assert 0 <= right <= made <= people and 0.0 < level <= 1.0
    whole, hits, misses = made / people, level * right / people, level * (made - right) / people
    for fewer in range(right - 1, -1, -1):
        needed = claim.least(hits)
        if needed <= misses:  # nor will it ever be more
            break
        hits += fewer / (made - fewer) * (needed - misses)
        misses = needed
        if hits + misses > whole:
            return True
    return hits + misses > whole


def lower_bound(scores: Mapping[str, NDArray[np.float64]], inside: NDArray[np.bool_], delta: float, confidence: float) -> Bound:
    """The largest epsilon that some statistic refutes, and the largest mu.

    Args:
        scores: by statistic, one for each person [m]: higher where the person seems to have been in training. The order of people must not
            depend on their coins, because it decides between equal scores.
        inside: what the coins said [m].
        delta: in [0, 1).
        confidence: in (0, 1).

    Raises:
        ValueError: there is nobody to guess.
    """
    people, tests = len(inside), _tests(scores, inside)
    level = (1.0 - confidence) / len(tests)

    # The most surprising first: the others then have to beat it, which most do not.
    tests.sort(key=lambda test: p_value(people, test.made, test.right, 0.0, delta))

    def most(refutes: Callable[[Guesses, float], bool]) -> tuple[float, Guesses]:
        value, best = 0.0, tests[0]
        for test in tests:
            if refutes(test, value + PRECISE):
                value, best = _largest(partial(refutes, test), value), test
        return value, best

    epsilon, best = most(lambda test, value: _refutes_pair(people, test, value, delta, level))
    mu, gaussian = most(lambda test, value: too_many(people, test.made, test.right, Gaussian(value), level))
    if epsilon > 0.0 and delta > 0.0 and (implied := mu_of(epsilon, delta)) > mu:
        mu, gaussian = implied, best  # whoever leaks as a Gaussian does has an epsilon, too
    in_words = epsilon_of(mu, delta) if mu > 0.0 and delta > 0.0 else epsilon
    return Bound(epsilon, delta, confidence, people, len(tests), best, mu, in_words, gaussian)


def bear(
    scores: Mapping[str, NDArray[np.float64]], inside: NDArray[np.bool_], pairs: Sequence[tuple[float, float]], confidence: float
) -> Claim:
    """How a claim that consists of (epsilon, delta) pairs, all of one training, bears the guesses; arguments as of :func:`lower_bound`.

    Raises:
        ValueError: there is nobody to guess, or there are no pairs.
    """
    if not pairs:
        raise ValueError("nothing is claimed")
    people, tests, curve = len(inside), _tests(scores, inside), Pairs(pairs)

    def surprise(test: Guesses) -> float:
        known = min(p_value(people, test.made, test.right, epsilon, delta) for epsilon, delta in pairs)
        return min(known, _tail(people, test, curve))

    values = [surprise(test) for test in tests]
    best = int(np.argmin(values))
    return Claim(values[best], (1.0 - confidence) / len(tests), len(tests), tests[best])


def _tests(scores: Mapping[str, NDArray[np.float64]], inside: NDArray[np.bool_]) -> list[Guesses]:
    if not scores or len(inside) < 2:
        raise ValueError("there are too few people to guess about")
    return [guesses for name, values in scores.items() for guesses in _guess(name, values, inside)]


def _guess(name: str, scores: NDArray[np.float64], inside: NDArray[np.bool_]) -> Iterator[Guesses]:
    """The highest scores are guessed to be inside and as many of the lowest outside."""
    order = np.argsort(scores, kind="stable")
    for each in _halves(len(scores)):
        right = int(inside[order[-each:]].sum() + (~inside[order[:each]]).sum())
        yield Guesses(name, 2 * each, right)


def _halves(people: int) -> Sequence[int]:
    return sorted({max(1, int(share * people / 2)) for share in SHARES}, reverse=True)


def _refutes_pair(people: int, test: Guesses, epsilon: float, delta: float, level: float) -> bool:
    if p_value(people, test.made, test.right, epsilon, delta) <= level:
        return True
    return too_many(people, test.made, test.right, Pairs([(epsilon, delta)]), level)


def _tail(people: int, test: Guesses, claim: TradeOff) -> float:
    """The probability of ``right`` right guesses, from above: the least level at which they are too many."""
    if not too_many(people, test.made, test.right, claim, 1.0):
        return 1.0
    low, high = SMALLEST, 1.0
    while high / low > 1.0 + PRECISE:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if too_many(people, test.made, test.right, claim, middle) else (middle, high)
    return high


def _largest(refutes: Callable[[float], bool], low: float = 0.0) -> float:
    """The largest value from ``low`` up that is refuted, from below; ``low`` if that is none."""
    if not refutes(low):
        return low
    high = 2.0 * low + 1.0
    while refutes(high) and high < LARGEST:
        low, high = high, 2.0 * high
    while high - low > PRECISE:
        middle = (low + high) / 2.0
        low, high = (middle, high) if refutes(middle) else (low, middle)
    return low
