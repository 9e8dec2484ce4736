"""What numbers of two cohorts are, by closed forms; and that real people against real people lie in their own band."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from volgen.evaluation.floor import Parting, floored
from volgen.evaluation.frechet import frechet_distance
from volgen.evaluation.kernel import kernel_distance
from volgen.evaluation.neighbours import neighbour_shares
from volgen.evaluation.space import FeatureSpace, components_for


def white(random: np.random.Generator, count: int, size: int) -> NDArray[np.float64]:
    """Rows of mean 0 and covariance 1, to rounding."""
    rows = random.normal(size=(count, size))
    rows -= rows.mean(axis=0)
    return rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T


def test_the_frechet_distance_of_diagonal_gaussians_is_that_of_their_means_and_deviations() -> None:
    random = np.random.default_rng(0)
    means, a, b = np.array([1.0, 0.0, -2.0]), np.array([1.0, 2.0, 0.5]), np.array([2.0, 1.0, 0.5])
    found = frechet_distance(white(random, 40, 3) * a, white(random, 70, 3) * b + means)
    assert found == pytest.approx((means**2).sum() + ((a - b) ** 2).sum(), rel=1e-9)


@pytest.mark.parametrize(("mean", "sd"), [(0.7, 1.0), (0.0, 2.0), (0.0, 1.0)])
def test_the_kernel_distance_is_that_of_the_moments(mean: float, sd: float) -> None:
    """Of (x y + 1)^3 in one dimension: the sum over k of binomial(3, k) (E x^k - E y^k)^2. Degree 1 would not see the spread."""
    random = np.random.default_rng(1)
    moments = [(0.0, mean), (1.0, sd**2 + mean**2), (0.0, mean**3 + 3 * mean * sd**2)]
    exact = sum(weight * (p - q) ** 2 for weight, (p, q) in zip((3, 3, 1), moments, strict=True))
    found = [kernel_distance(random.normal(size=(400, 1)), mean + sd * random.normal(size=(400, 1))) for _ in range(60)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - exact) < 4 * error, "not unbiased"
    assert error < 0.1 * max(exact, 1.0) + 0.2
    if not mean and sd != 1:
        one = [kernel_distance(random.normal(size=(200, 1)), sd * random.normal(size=(200, 1)), degree=1) for _ in range(20)]
        assert abs(np.mean(one)) < 0.05


def test_neighbours_say_what_a_loop_says() -> None:
    random = np.random.default_rng(2)
    a, b = random.normal(size=(30, 3)), random.normal(size=(25, 3)) + 0.5
    reach = [sorted(np.linalg.norm(b - row, axis=1))[5] for row in b]
    own = [sorted(np.linalg.norm(a - row, axis=1))[5] for row in a]
    inside = np.array([[np.linalg.norm(x - y) < reach[j] for j, y in enumerate(b)] for x in a])
    back = np.array([[np.linalg.norm(x - y) < own[i] for y in b] for i, x in enumerate(a)])
    found = neighbour_shares(a, b)
    assert found == pytest.approx(
        {
            "precision": inside.any(1).mean(),
            "recall": back.any(0).mean(),
            "density": inside.sum() / 5 / 30,
            "coverage": inside.any(0).mean(),
        }
    )
    assert neighbour_shares(a, a + 100.0) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_coordinates_are_principal_components_of_those_they_are_fitted_on() -> None:
    random = np.random.default_rng(3)
    rows = random.normal(size=(20, 50)).astype(np.float32)
    fit = np.arange(8, 20)
    centred = rows - rows[fit].mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred[fit], full_matrices=False)
    expected = centred @ axes[:4].T / np.sqrt((sizes[:4] ** 2).sum() / 11)
    assert np.abs(FeatureSpace(rows).coordinates(fit, 4)) == pytest.approx(np.abs(expected), abs=1e-3)


def test_a_scale_of_units_does_not_matter_where_values_are_standardised() -> None:
    random = np.random.default_rng(4)
    rows, units = random.normal(size=(20, 5)), np.array([1.0, 1e3, 1e-3, 7.0, 2.0])
    one, other = (FeatureSpace(values, standardise=True).coordinates(np.arange(10), 3) for values in (rows, rows * units))
    assert np.abs(one) == pytest.approx(np.abs(other), abs=1e-9)
    assert FeatureSpace(np.column_stack([rows, np.ones(20)]), standardise=True).size == 5, "what does not vary is left out"


def test_too_few_volumes_bear_fewer_components() -> None:
    assert [components_for(n) for n in (200, 20, 6, 2, 1)] == [24, 10, 3, 1, 1]


def test_value_and_floor_are_of_equal_counts_and_of_people_that_are_apart() -> None:
    seen = []

    def statistic(ours: np.ndarray, real: np.ndarray, fitted: np.ndarray) -> dict[str, float]:
        seen.append((len(ours), len(real), len(fitted)))
        groups = [set(group.tolist()) for group in (ours, real, fitted)]
        assert not groups[0] & groups[1] and not groups[1] & groups[2] and not groups[0] & groups[2]
        return {"x": 0.0}

    parting = Parting.of(8, 31, fits=True)
    assert (parting.ours, parting.real, parting.fitted) == (8, 12, 11)
    floored(statistic, 8, 31, parting, 0)
    assert set(seen) == {(8, 12, 11), (4, 6, 11)}
    assert Parting.of(80, 31, fits=False) == Parting(15, 16, 0)


def test_the_band_holds_real_people_and_shows_a_shift() -> None:
    """A difference of means, whose law is known: 97 of 100 new splits lie inside, and a shift of a standard deviation does not."""
    random = np.random.default_rng(5)
    inside = shifted = covered = 0
    for split in range(60):
        rows = np.concatenate([random.normal(size=40), random.normal(size=60)])

        def statistic(ours: np.ndarray, real: np.ndarray, fitted: np.ndarray, rows: np.ndarray = rows) -> dict[str, float]:
            return {"d": float(rows[ours].mean() - rows[real].mean())}

        found = floored(statistic, 40, 60, Parting.of(40, 60, fits=False), split)["d"]
        inside += found.inside
        assert found.interval is not None
        covered += found.interval[0] <= 0 <= found.interval[1]
        rows[:40] += 1.0
        shifted += not floored(statistic, 40, 60, Parting.of(40, 60, fits=False), split)["d"].inside
    assert inside >= 56
    assert covered >= 53, "the 95 % interval"
    assert shifted >= 58
