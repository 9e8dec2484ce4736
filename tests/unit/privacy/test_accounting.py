"""The accountants against an independent one, and the arithmetic of budgets."""

from __future__ import annotations

import math

import pytest

from volgen.core.errors import UserError
from volgen.privacy.accounting import Steps, calibrate, epsilon, replace_one
from volgen.privacy.gaussian import epsilon_of

DELTA = 1e-5
GRID = [(rate, noise, count) for rate in (0.01, 0.064, 0.3) for noise in (0.8, 2.0, 8.0) for count in (1, 100, 3000)]


def independent(rate: float, noise: float, count: int) -> float:
    """Google's dp-accounting: privacy-loss distributions, both directions of add-or-remove-one."""
    pld = pytest.importorskip("dp_accounting.pld.privacy_loss_distribution", reason="dp-accounting is the independent accountant")
    fine = 1e-4 if rate * math.sqrt(count) / noise < 4.0 else 1e-3
    one = pld.from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=fine, use_connect_dots=True)
    return float(one.self_compose(count).get_epsilon_for_delta(DELTA))


@pytest.mark.parametrize(("rate", "noise", "count"), GRID)
def test_prv_agrees_with_an_independent_accountant(rate: float, noise: float, count: int) -> None:
    steps, truth = [Steps(rate, noise, count)], independent(rate, noise, count)
    prv, rdp = epsilon(steps, DELTA), epsilon(steps, DELTA, "rdp")
    assert prv == pytest.approx(truth, rel=0.03, abs=2e-4)
    assert prv > truth * 0.998, "an upper bound, but for the independent accountant's own rounding"
    assert rdp >= prv


def test_the_reference_figure_of_a_cohort_of_slices() -> None:
    """1000 patients of 155 slices, 256 slices a step: sampled by patient at noise 2 it costs 10, not the 0.83 of a per-slice number."""
    assert epsilon([Steps(0.064, 2.0, 3000)], DELTA, "rdp") == pytest.approx(10.0, abs=0.1)
    # What is reported per slice at noise 1 ...
    assert epsilon([Steps(256 / 155_000, 1.0, 3000)], DELTA, "rdp") == pytest.approx(0.83, abs=0.1)


def test_steps_of_all_experts_compose_in_any_order_and_grouping() -> None:
    parts = [Steps(0.1, 4.0, 200), Steps(0.2, 3.0, 50), Steps(0.1, 4.0, 100)]
    together = epsilon(parts, DELTA)
    assert together == epsilon([Steps(0.2, 3.0, 50), Steps(0.1, 4.0, 300)], DELTA)
    assert together > max(epsilon([part], DELTA) for part in parts) * 1.2
    assert together <= epsilon(parts, DELTA, "rdp")


def test_heterogeneous_steps_agree_with_an_independent_accountant() -> None:
    pld = pytest.importorskip("dp_accounting.pld.privacy_loss_distribution", reason="dp-accounting is the independent accountant")
    one = pld.from_gaussian_mechanism(2.0, sampling_prob=0.05, use_connect_dots=True).self_compose(300)
    other = pld.from_gaussian_mechanism(1.2, sampling_prob=0.02, use_connect_dots=True).self_compose(500)
    truth = one.compose(other).get_epsilon_for_delta(DELTA)
    assert epsilon([Steps(0.05, 2.0, 300), Steps(0.02, 1.2, 500)], DELTA) == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
@pytest.mark.parametrize(("target", "rate", "count"), [(8.0, 0.064, 500), (1.0, 0.3, 50), (100.0, 1.0, 10)])
def test_calibration_spends_the_budget_and_no_more(accountant: str, target: float, rate: float, count: int) -> None:
    noise = calibrate(target, DELTA, rate, count, accountant)  # type: ignore[arg-type]
    spent = epsilon([Steps(rate, noise, count)], DELTA, accountant)  # type: ignore[arg-type]
    assert target * 0.99 < spent <= target


def test_more_experts_need_more_noise() -> None:
    """Two hundred experts see the same patients: a budget calibrated for one of them is broken by the bank."""
    one, bank = calibrate(8.0, DELTA, 0.064, 500, "rdp"), calibrate(8.0, DELTA, 0.064, 200 * 500, "rdp")
    assert bank / one > 8
    assert epsilon([Steps(0.064, one, 200 * 500)], DELTA, "rdp") > 200


def test_prv_needs_less_noise_than_rdp() -> None:
    assert 0.9 < calibrate(8.0, DELTA, 0.064, 500) / calibrate(8.0, DELTA, 0.064, 500, "rdp") < 0.97


REPLACED = [
    # q, sigma, steps, delta, epsilon of an accountant of its own (a mesh of 2e-4, losses rounded up), or, at q 1, of the Gaussian mechanism
    (20 / 111, 1.18, 20, 1e-3, 4.642),
    (0.064, 1.13, 500, 1e-5, 13.72),
    (1.0, 5.0, 10, 1e-5, 5.7595),
]


@pytest.mark.parametrize(("rate", "noise", "count", "delta", "told"), REPLACED)
def test_replacing_a_patient_costs_more_than_leaving_one_out(rate: float, noise: float, count: int, delta: float, told: float) -> None:
    steps = [Steps(rate, noise, count)]
    assert replace_one(steps, delta) == pytest.approx(told, rel=1e-3)
    assert replace_one(steps, delta) > 1.2 * epsilon(steps, delta)


@pytest.mark.parametrize(("noise", "count"), [(5.0, 10), (50.0, 3), (0.7, 1), (30.0, 4000)])
def test_with_everybody_in_every_step_it_is_that_of_the_gaussian_mechanism(noise: float, count: int) -> None:
    exact = epsilon_of(2.0 / noise * math.sqrt(count), DELTA)
    found = replace_one([Steps(1.0, noise, count)], DELTA)
    assert exact <= found <= exact * 1.003 + 1e-4


@pytest.mark.parametrize(("rate", "noise", "count", "delta"), [(20 / 111, 1.18, 20, 1e-3), (0.5, 2.0, 30, 1e-5), (0.01, 0.7, 200, 1e-6)])
def test_it_is_never_below_dp_accounting(rate: float, noise: float, count: int, delta: float) -> None:
    pld = pytest.importorskip("dp_accounting.pld.privacy_loss_distribution", reason="dp-accounting is the independent accountant")
    from dp_accounting import NeighboringRelation

    def bound(pessimistic: bool) -> float:
        one = pld.from_gaussian_mechanism(
            noise, sampling_prob=rate, value_discretization_interval=1e-3, pessimistic_estimate=pessimistic, use_connect_dots=pessimistic,
            neighboring_relation=NeighboringRelation.REPLACE_ONE,
        )  # fmt: skip
        return float(one.self_compose(count).get_epsilon_for_delta(delta))

    found = replace_one([Steps(rate, noise, count)], delta)
    assert bound(False) <= found <= bound(True) * 1.01


def test_replacing_composes_over_steps_that_differ() -> None:
    both = replace_one([Steps(0.2, 2.0, 5), Steps(1.0, 20.0, 5)], DELTA)
    assert max(replace_one([Steps(0.2, 2.0, 5)], DELTA), replace_one([Steps(1.0, 20.0, 5)], DELTA)) < both
    assert replace_one([Steps(0.2, 2.0, 5), Steps(0.2, 2.0, 5)], DELTA) == replace_one([Steps(0.2, 2.0, 10)], DELTA)
    assert replace_one([], DELTA) == 0.0


def test_the_accountant_still_says_what_it_said() -> None:
    """Figures of 0.1.0: randomness by patient changed no number."""
    told = {(20 / 111, 1.18, 20, 1e-3): 2.9060, (0.064, 1.13, 500, 1e-5): 7.96, (1.0, 5.0, 10, 1e-5): 2.61}
    for (rate, noise, count, delta), value in told.items():
        assert epsilon([Steps(rate, noise, count)], delta) == pytest.approx(value, abs=0.01)
    assert epsilon([Steps(20 / 111, 1.18, 20)], 1e-3, "rdp") == pytest.approx(3.502, abs=0.001)


def test_nothing_costs_nothing() -> None:
    assert epsilon([], DELTA) == epsilon([Steps(0.1, 1.0, 0)], DELTA) == 0.0


@pytest.mark.parametrize(
    "steps", [Steps(0.0, 1.0, 1), Steps(1.1, 1.0, 1), Steps(0.5, 0.0, 1), Steps(0.5, 1.0, -1), Steps(0.5, math.nan, 1)]
)
def test_impossible_steps_are_refused(steps: Steps) -> None:
    with pytest.raises(ValueError, match="no step"):
        epsilon([steps], DELTA)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_impossible_deltas_are_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        epsilon([Steps(0.1, 1.0, 1)], delta)


def test_a_budget_that_no_noise_can_keep_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be kept"):
        calibrate(1e-9, 1e-12, 1.0, 10**6, "rdp")
    for impossible in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="epsilon"):
            calibrate(impossible, DELTA, 0.1, 1)
    with pytest.raises(ValueError, match="steps"):
        calibrate(1.0, DELTA, 0.1, 0)
