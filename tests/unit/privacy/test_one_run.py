"""The lower bound on epsilon: the paper's own numbers, and a mechanism whose epsilon is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from volgen.privacy._one_run import PRECISE, Guesses, _refuted, lower_bound, p_value

PUBLISHED = [((1000, 100, 75, 1e-4), 0.673), ((100_000, 1510, 1439, 1e-5), 2.675)]
"""Steinke, Nasr & Jagielski 2023, appendix D and section 7: (m, r, v, delta) at 95 % -> epsilon."""


@pytest.mark.parametrize(("counts", "published"), PUBLISHED)
def test_published_bounds_are_reproduced(counts: tuple[int, int, int, float], published: float) -> None:
    people, made, right, delta = counts
    assert _refuted(people, Guesses("", made, right), delta, 0.05) == pytest.approx(published, abs=1e-3)


def test_without_delta_the_p_value_is_the_binomial_tail() -> None:
    for right in (0, 3, 10):
        tail = sum(binom.pmf(k, 10, math.e / (1 + math.e)) for k in range(right, 11))
        assert p_value(40, 10, right, 1.0, 0.0) == pytest.approx(tail)


def test_the_bound_never_falls_with_more_right_guesses_and_never_rises_with_delta() -> None:
    bounds = [_refuted(100, Guesses("", 50, right), 1e-5, 0.05) for right in range(25, 51)]
    assert bounds == sorted(bounds) and bounds[0] == 0.0 and bounds[-1] > 2.0
    deltas = [_refuted(100, Guesses("", 50, 50), delta, 0.05) for delta in (0.0, 1e-5, 1e-4)]
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
