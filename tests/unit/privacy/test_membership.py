"""Membership inference on numbers whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, norm

from volgen.privacy import membership
from volgen.privacy.membership import COMBINED, LIRA, Shadows, auc_interval, measure, statistics


def test_area_and_rates_are_those_of_two_normals() -> None:
    generator, shift = np.random.default_rng(0), 1.5
    scores = np.concatenate([generator.normal(shift, 1, 4000), generator.normal(0, 1, 4000)])
    measured = measure(scores, np.arange(8000) < 4000, 0.95)
    assert measured["auc"] == pytest.approx(norm.cdf(shift / 2**0.5), abs=0.01)
    low, high = measured["interval"]
    assert low < norm.cdf(shift / 2**0.5) < high and high - low < 0.02
    for row in measured["low_false_positives"]:
        expected = norm.sf(norm.isf(row["false_positive_rate"]) - shift)
        assert row["interval"][0] - 0.02 <= expected <= row["interval"][1] + 0.02
    roc = np.array(measured["roc"])
    assert roc[0].tolist() == [0, 0] and roc[-1].tolist() == [1, 1] and (np.diff(roc, axis=0) >= 0).all()


def test_exact_interval_is_clopper_and_pearsons_and_rates_that_nobody_can_see_are_none() -> None:
    inside = np.arange(40) < 20
    measured = measure(np.where(inside, 1.0, 0.0), inside, 0.95)
    rows = {row["false_positive_rate"]: row for row in measured["low_false_positives"]}
    assert rows[0.001]["true_positive_rate"] is None and rows[0.01]["true_positive_rate"] is None
    assert rows[0.1]["true_positive_rate"] == 1.0
    assert rows[0.1]["interval"] == pytest.approx([beta.ppf(0.025, 20, 1), 1.0])
    assert measured["auc"] == 1.0 and measured["interval"][1] == 1.0 and 0.75 < measured["interval"][0] < 0.95


@pytest.mark.parametrize("true", [0.5, 0.8])
def test_interval_of_the_area_covers_as_often_as_it_says(true: float) -> None:
    generator, shift, covered = np.random.default_rng(2), norm.ppf(true) * 2**0.5, 0
    for _ in range(400):
        yes, no = generator.normal(shift, 1, 20), generator.normal(0, 1, 25)
        low, high = auc_interval(float((yes[:, None] > no).mean()), 20, 25, 0.95)
        covered += low <= true <= high
    assert 0.91 <= covered / 400 <= 0.995


def test_shadow_models_find_what_the_loss_alone_hides() -> None:
    """People differ in how hard they are by ten times what training on them changes."""
    generator, people, levels, models = np.random.default_rng(3), 120, 3, 4
    hard = generator.normal(0, 1.0, (people, 1))
    inside = generator.random((models + 1, people)) < 0.5

    def losses(inside: np.ndarray) -> np.ndarray:
        return np.exp(hard - 0.1 * inside[:, None] + generator.normal(0.3, 0.05, (people, levels)))

    table = np.stack([losses(each) for each in inside])
    names = [str(level) for level in range(levels)]
    plain = statistics(table[0], names)
    shadowed = statistics(table[0], names, Shadows(table[1:], inside[1:]))
    assert set(plain) == {*names, COMBINED} and set(shadowed) == {LIRA, COMBINED}
    assert measure(plain[COMBINED], inside[0], 0.95)["auc"] < 0.65
    lira = measure(shadowed[LIRA], inside[0], 0.95)["auc"]
    # The best anybody can do: shift 0.1 in three levels, noise 0.05 of the model's own and that of the mean of four.
    best = norm.cdf(3**0.5 * 0.1 / (0.05 * (1 + 1 / 4) ** 0.5) / 2**0.5)
    assert best - 0.06 <= lira <= best + 0.06


def test_shadow_models_that_are_all_alike_say_nothing() -> None:
    losses = np.random.default_rng(4).uniform(0.5, 1.0, (10, 2))
    same = Shadows(np.stack([losses] * 2), np.zeros((2, 10), dtype=bool))
    assert np.allclose(membership.likelihood_ratio(losses, same), 0.0)
