"""The noise coordinate and its relatives."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from volgen.core.noise import alpha_bar_of_sigma, choose, flow_time_of_sigma, sigma_of_alpha_bar


@given(st.floats(1e-6, 1 - 1e-6))
def test_alpha_bar_and_sigma_are_inverse(alpha_bar: float) -> None:
    assert alpha_bar_of_sigma(sigma_of_alpha_bar(alpha_bar)) == pytest.approx(alpha_bar, rel=1e-9)


@given(st.floats(1e-4, 1e4))
def test_vp_and_flow_samples_are_multiples_of_ours(sigma: float) -> None:
    # y = x0 + sigma z; sqrt(abar) y must have noise sqrt(1 - abar), and (1 - t) y must have noise t.
    alpha_bar = alpha_bar_of_sigma(sigma)
    assert math.sqrt(alpha_bar) * sigma == pytest.approx(math.sqrt(max(1 - alpha_bar, 0)), rel=1e-6)
    t = float(flow_time_of_sigma(torch.tensor(sigma, dtype=torch.float64)))
    assert (1 - t) * sigma == pytest.approx(t, rel=1e-6)


@given(st.integers(2, 60), st.data())
def test_chosen_points_are_distinct_points_of_the_grid_with_both_ends(count: int, data: st.DataObject) -> None:
    points = [float(value) for value in range(count, 0, -1)]
    steps = data.draw(st.integers(2, count))
    chosen = choose(points, steps)
    assert len(chosen) == steps
    assert (chosen[0], chosen[-1]) == (points[0], points[-1])
    assert set(chosen) <= set(points)
    assert all(a > b for a, b in itertools.pairwise(chosen))


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_more_steps_than_points_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"{steps} steps cannot be chosen from a grid of 5 points"):
        choose([5.0, 4.0, 3.0, 2.0, 1.0], steps)
