"""Scanner units <-> unit interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volgen.images.intensity import IntensityMap


@given(st.floats(-1e4, 1e4), st.floats(1e-2, 1e4), st.floats(0, 1))
def test_inside_the_window_the_map_is_invertible(low: float, width: float, unit: float) -> None:
    window = IntensityMap(low, low + width)
    there = window.from_unit(np.array([unit]))
    assert window.to_unit(there)[0] == pytest.approx(unit, abs=1e-5 * (1 + abs(low) / width))


def test_outside_the_window_is_clipped() -> None:
    unit = IntensityMap(10.0, 20.0).to_unit(np.array([0.0, 10.0, 15.0, 20.0, 99.0]))
    assert unit.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert unit.dtype == np.float32


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_empty_window_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="empty or not finite"):
        IntensityMap(low, high)


def test_robust_window_ignores_spikes_and_the_amount_of_air() -> None:
    random = np.random.default_rng(0)
    tissue = random.uniform(200, 600, 50_000)
    spiked = np.concatenate([np.zeros(50_000), tissue, [9e4] * 10])
    window = IntensityMap.robust(spiked)
    assert window.low == pytest.approx(0, abs=1)
    assert window.high == pytest.approx(600, rel=0.01)
    more_air = np.concatenate([np.zeros(350_000), tissue])
    assert IntensityMap.robust(more_air).high == pytest.approx(window.high, rel=0.01)


def test_constant_image_has_no_window() -> None:
    with pytest.raises(ValueError, match="empty"):
        IntensityMap.robust(np.full((4, 4, 4), 7.0))
