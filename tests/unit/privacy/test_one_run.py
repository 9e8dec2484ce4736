"""The lower bounds: the papers' own numbers, another library's, linear programs, and mechanisms whose epsilon is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import binom

from volgen.privacy.accounting import Accountant, Steps, epsilon, profile
from volgen.privacy.gaussian import delta_of, epsilon_of
from volgen.privacy.one_run import PRECISE, Guesses, _largest, _refutes_pair, _tail, bear, lower_bound, p_value, too_many
from volgen.privacy.trade_off import Gaussian, Pairs

PUBLISHED = [((1000, 100, 75, 1e-4), 0.673), ((100_000, 1510, 1439, 1e-5), 2.675)]
"""Steinke, Nasr & Jagielski 2023, appendix D and section 7: (m, r, v, delta) at 95 % -> epsilon."""
ELSEWHERE = [
    ((200, 200, 160, 1e-5, 0.05), 2.27022), ((200, 100, 95, 1e-3, 0.05 / 3), 2.50721), ((1000, 100, 75, 1e-4, 0.05), 0.84172),
    ((50, 50, 50, 1e-5, 0.05 / 3), 5.36056), ((400, 200, 120, 1e-5, 0.05), 0.26848), ((100_000, 1510, 1439, 1e-5, 0.05), 3.30908),
    ((200, 200, 200, 1e-3, 0.05 / 3), 5.84352),
]  # fmt: skip
"""(m, r, v, delta, level) -> epsilon of the largest mu that is refuted. Made with jax_privacy at 8967688 (August 2026):
``auditing._epsilon_one_run_fdp(0.0, m, r, v, level, delta)``."""


@pytest.mark.parametrize(("counts", "published"), PUBLISHED)
def test_published_bounds_are_reproduced(counts: tuple[int, int, int, float], published: float) -> None:
    people, made, right, delta = counts
    assert _largest(lambda eps: p_value(people, made, right, eps, delta) <= 0.05) == pytest.approx(published, abs=1e-3)


@pytest.mark.parametrize(("counts", "theirs"), ELSEWHERE)
def test_bounds_for_gaussian_leakage_are_those_of_another_library(counts: tuple[int, int, int, float, float], theirs: float) -> None:
    people, made, right, delta, level = counts
    mu = _largest(lambda mu: too_many(people, made, right, Gaussian(mu), level))
    assert epsilon_of(mu, delta) == pytest.approx(theirs, abs=2e-3)


def lines_of(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Slope and height of the lines below which an event's probability has to stay, against its probability in the other world."""
    return [line for e, d in pairs for line in ((math.exp(e), d), (math.exp(-e), 1 - math.exp(-e) * (1 - d)))]


@pytest.mark.parametrize(
    ("people", "made", "right", "pairs"),
    [
        (10, 10, 9, [(1.0, 1e-3)]), (12, 8, 8, [(0.5, 0.01)]), (30, 20, 17, [(1.0, 0.01)]), (30, 30, 20, [(0.1, 0.05)]),
        (40, 20, 18, [(1.5, 1e-4)]), (20, 10, 7, [(0.3, 0.0)]), (40, 40, 33, [(2.0, 1e-3), (1.2, 0.05), (0.3, 0.2)]),
    ],
)  # fmt: skip
def test_the_recursion_finds_what_a_linear_program_finds(people: int, made: int, right: int, pairs: list[tuple[float, float]]) -> None:
    """The most probable tail among all distributions of the number of right guesses for which the claim holds, event by event."""
    numbers, rows, limits = np.arange(made + 1), [], []
    for least in range(1, made + 1):
        hit = np.where(numbers >= least, numbers / people, 0.0)
        missed = np.where(numbers >= least - 1, (made - numbers) / people, 0.0)
        for slope, height in lines_of(pairs):
            rows.append(hit - slope * missed)
            limits.append(height)
    tail = (numbers >= right).astype(float)
    found = linprog(-tail, A_ub=rows, b_ub=limits, A_eq=[np.ones(made + 1)], b_eq=[1.0], bounds=(0.0, 1.0))
    assert _tail(people, Guesses("", made, right), Pairs(pairs)) == pytest.approx(-found.fun, rel=1e-3)


def test_trade_offs_are_what_they_stand_for() -> None:
    """A Gaussian's is the envelope of all its (epsilon, delta) pairs (Dong, Roth & Su 2022, proposition 2.12)."""
    pairs = Pairs([(eps, delta_of(eps, 1.3)) for eps in np.linspace(0.0, 12.0, 2000)])
    for likely in (1e-4, 0.01, 0.3, 0.5, 0.9, 0.999):
        assert Gaussian(1.3).least(likely) == pytest.approx(pairs.least(likely), rel=1e-3)
    assert Gaussian(0.0).least(0.2) == pytest.approx(0.2) and Pairs([(0.0, 0.0)]).least(0.2) == pytest.approx(0.2)
    assert Pairs([(1000.0, 1e-5)]).least(0.5) == pytest.approx(0.0)


def test_a_profile_holds_at_every_delta() -> None:
    kinds: list[tuple[Accountant, list[Steps]]] = [("prv", [Steps(1.0, 5.0, 3)]), ("rdp", [Steps(0.18, 1.18, 20), Steps(1.0, 40.0, 3)])]
    for accountant, steps in kinds:
        pairs = profile(steps, accountant)
        assert [e for e, _ in pairs] == sorted((e for e, _ in pairs), reverse=True)
        at = {delta: e for e, delta in pairs}
        if accountant == "rdp":
            assert at[0.1] == epsilon(steps, 0.1, "rdp")
        else:
            assert all(0.0 <= at[delta] - epsilon_of(math.sqrt(3) / 5.0, delta) < 0.03 for delta in at)
    assert profile([]) == [(0.0, 0.0)]


@pytest.mark.parametrize(("mu", "coins"), [(1.0, 200), (3.0, 200), (0.3, 40)])
def test_a_gaussian_mechanism_is_seldom_accused_and_more_is_shown_of_it_than_before(mu: float, coins: int) -> None:
    """Scores of people who each get a normal number of their own, moved by mu for those inside: mu-GDP, exactly. 400 times."""
    generator, delta, truth, shown = np.random.default_rng(7), 1e-3, epsilon_of(mu, 1e-3), []
    claim = [(epsilon_of(mu, d), d) for d in (1e-3, 0.01, 0.05, 0.1, 0.2, 0.3)]
    accused = refuted = 0
    for turn in range(400):
        inside = generator.random(coins) < 0.5
        scores = {"one": generator.normal(size=coins) + mu * inside}
        bound = lower_bound(scores, inside, delta, 0.95)
        accused += bound.mu > mu or bound.epsilon > truth
        assert bound.gaussian_epsilon >= bound.epsilon - 2 * PRECISE
        shown.append((bound.epsilon, bound.gaussian_epsilon))
        if turn < 100:
            refuted += bear(scores, inside, claim, 0.95).refuted
    assert accused <= 20 and refuted <= 5
    medians = np.median(shown, axis=0)
    # Theorem 5.2 of Steinke et al. alone: 0.56 and 1.7.
    expected = {1.0: (0.8, 1.0), 3.0: (3.0, 4.2), 0.3: (0.0, 0.0)}[mu]
    assert tuple(medians) >= expected and medians[1] >= expected[1]


def test_a_ledger_that_its_own_steps_refute_though_its_number_at_one_delta_cannot_be() -> None:
    """A Gaussian of epsilon 2.9 at delta 1e-3, and 95 % of 200 coins are guessed: what it keeps at delta 0.1 to 0.3 does not allow that."""
    inside = np.arange(200) % 2 == 0
    guessed = np.where(np.arange(200) < 190, inside, ~inside)
    scores = np.where(guessed, 1.0, -1.0) * np.arange(1, 201)  # the surest guesses are the wrong ones
    pairs = [(epsilon_of(0.935, delta), delta) for delta in (1e-3, 0.003, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3)]
    number, steps = (bear({"loss": scores}, inside, claimed, 0.95) for claimed in (pairs[:1], pairs))
    assert pairs[0][0] == pytest.approx(2.89, abs=0.01)
    assert not number.refuted and number.p_value > 0.3
    assert steps.refuted and steps.best == Guesses("loss", 200, 190) and steps.tests == 3 and steps.level == pytest.approx(0.05 / 3)
    assert lower_bound({"loss": scores}, inside, 1e-3, 0.95).epsilon < 2.9
    with pytest.raises(ValueError, match="nothing is claimed"):
        bear({"loss": scores}, inside, [], 0.95)


def test_without_delta_the_p_value_is_the_binomial_tail() -> None:
    for right in (0, 3, 10):
        tail = sum(binom.pmf(k, 10, math.e / (1 + math.e)) for k in range(right, 11))
        assert p_value(40, 10, right, 1.0, 0.0) == pytest.approx(tail)


def test_the_bound_never_falls_with_more_right_guesses_and_never_rises_with_delta() -> None:
    def bound(right: int, delta: float) -> float:
        return _largest(lambda eps: _refutes_pair(100, Guesses("", 50, right), eps, delta, 0.05))

    bounds = [bound(right, 1e-5) for right in range(25, 51)]
    assert bounds == sorted(bounds) and bounds[0] == 0.0 and bounds[-1] > 2.0
    deltas = [bound(50, delta) for delta in (0.0, 1e-5, 1e-4, 1e-2)]
    assert deltas == sorted(deltas, reverse=True)


def test_randomised_response_is_almost_never_accused_and_twice_its_leak_is_found() -> None:
    """Randomised response is exactly epsilon-private: whoever sees it guesses right with probability e^eps / (1 + e^eps)."""
    generator, people, epsilon, accused, found = np.random.default_rng(1), 400, 1.0, 0, 0
    for _ in range(300):
        inside = generator.random(people) < 0.5

        def answers(epsilon: float, inside: np.ndarray = inside) -> np.ndarray:
            honest = generator.random(people) < 1 / (1 + math.exp(-epsilon))
            return np.where(honest, inside, ~inside).astype(float)

        # Several statistics, of which the best counts: what Bonferroni pays for.
        accused += lower_bound({str(i): answers(epsilon) for i in range(4)}, inside, 0.0, 0.95).epsilon > epsilon
        found += lower_bound({"one": answers(2 * epsilon)}, inside, 0.0, 0.95).epsilon > epsilon
    assert accused <= 15  # 5 % of 300
    assert found == 300


def test_perfect_guesses_give_what_so_few_people_can_show() -> None:
    inside = np.arange(40) % 2 == 0
    bound = lower_bound({"loss": inside.astype(float)}, inside, 0.0, 0.95)
    # All of r guesses right: (e^eps / (1 + e^eps))^r = level.
    chance = (0.05 / bound.tests) ** (1 / 40)
    assert bound.best == Guesses("loss", 40, 40) and bound.tests == 3
    assert bound.epsilon == pytest.approx(math.log(chance / (1 - chance)), abs=2 * PRECISE)


def test_scores_that_know_nothing_show_nothing() -> None:
    generator, accused = np.random.default_rng(0), 0
    for _ in range(200):
        inside = generator.random(200) < 0.5
        accused += lower_bound({"noise": generator.random(200)}, inside, 1e-5, 0.95).epsilon > 0.0
    assert accused <= 10
    assert lower_bound({"equal": np.zeros(200)}, inside, 1e-5, 0.95).epsilon < 0.3
    with pytest.raises(ValueError, match="too few"):
        lower_bound({"one": np.zeros(1)}, np.array([True]), 0.0, 0.95)
