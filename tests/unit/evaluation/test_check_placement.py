"""What stands out along a curve: not at an end, where it could be a slope, and less in a volume that is uneven throughout."""

from __future__ import annotations

import numpy as np

from volgen.evaluation.placement import Entries, Placement
from volgen.evaluation.slices import stand_out

ENDS = (0, 59)


def entries(values: np.ndarray) -> Entries:
    return Entries.of(values, ENDS, len(values))


def test_the_ends_of_a_curve_are_unknown_and_a_slope_does_not_stand_out() -> None:
    out = stand_out(np.linspace(0.0, 6.0, 60))
    assert np.isnan(out[:3]).all() and np.isnan(out[-3:]).all()
    assert np.abs(out[5:-5]).max() < 1e-9
    assert np.isfinite(out[3:-3]).all()


def test_a_short_curve_is_judged_to_its_ends() -> None:
    assert np.isfinite(stand_out(np.zeros(12))[[1, 2, -3, -2]]).all()


def test_one_entry_stands_out_less_in_a_curve_that_is_uneven_throughout() -> None:
    generator = np.random.default_rng(0)
    placement = Placement.fit([entries(np.exp(generator.normal(0, 0.05, 60))) for _ in range(20)])
    even, uneven = np.exp(generator.normal(0, 0.05, 60)), np.exp(generator.normal(0, 0.2, 60))
    for curve in (even, uneven):
        curve[30] = 2.0
    heights = [placement.standing_out(entries(curve)) for curve in (even, uneven)]
    assert int(np.nanargmax(heights[0])) == 30
    assert heights[0][30] > 2 * heights[1][30] > 0
