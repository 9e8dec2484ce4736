"""Every noise level has exactly one owner."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volgen.core.span import SigmaSpan, owner, tile

GRIDS = st.lists(st.integers(1, 10**6).map(lambda n: n / 1000), min_size=1, max_size=40, unique=True)


@st.composite
def tilings(draw: st.DrawFn) -> tuple[list[float], int]:
    grid = draw(GRIDS)
    return grid, draw(st.integers(1, len(grid)))


@given(tilings(), st.floats(0, 1))
def test_every_sigma_up_to_the_largest_has_exactly_one_owner(tiling: tuple[list[float], int], share: float) -> None:
    grid, count = tiling
    spans = tile(grid, count)
    for sigma in (*grid, share * max(grid), 0.0):
        owners = [index for index, span in enumerate(spans) if sigma in span]
        assert owners == [owner(spans, sigma)]


@given(tilings())
def test_experts_own_equally_many_points_and_none_goes_without(tiling: tuple[list[float], int]) -> None:
    grid, count = tiling
    spans = tile(grid, count)
    assert len(spans) == count
    owned = [sum(sigma in span for sigma in grid) for span in spans]
    assert sum(owned) == len(grid)
    assert max(owned) - min(owned) <= 1
    assert min(owned) >= 1


@given(tilings())
def test_spans_ascend_without_gaps_from_zero(tiling: tuple[list[float], int]) -> None:
    grid, count = tiling
    spans = tile(grid, count)
    assert spans[0].low == 0.0
    assert all(below.high == above.low for below, above in itertools.pairwise(spans))
    assert spans[-1].high == math.nextafter(max(grid), math.inf)


def test_order_of_the_grid_does_not_matter() -> None:
    assert tile([1.0, 4.0, 2.0], 2) == tile([4.0, 2.0, 1.0], 2)


def test_one_expert_per_point_cuts_half_way_in_log_sigma() -> None:
    assert [span.low for span in tile([1.0, 4.0, 16.0], 3)] == [0.0, 2.0, 8.0]


def test_experts_own_as_many_points_as_they_are_given() -> None:
    grid = [1.0, 4.0, 16.0, 64.0]
    spans = tile(grid, 2, [1, 3])
    assert [[sigma in span for sigma in grid] for span in spans] == [[True, False, False, False], [False, True, True, True]]
    assert tile(grid, 2, [2, 2]) == tile(grid, 2)


@pytest.mark.parametrize("sizes", [[1, 2], [4], [0, 4], [2, 1, 1]])
def test_sizes_that_do_not_tile_the_grid_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="do not tile"):
        tile([1.0, 4.0, 16.0, 64.0], 2, sizes)


@pytest.mark.parametrize("count", [0, 4])
def test_more_experts_than_points_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} experts cannot share 3"):
        tile([1.0, 2.0, 3.0], count)


@pytest.mark.parametrize("sigma", [-0.1, 3.1])
def test_nobody_owns_what_is_outside(sigma: float) -> None:
    with pytest.raises(ValueError, match="no expert owns sigma"):
        owner(tile([1.0, 3.0], 2), sigma)


@pytest.mark.parametrize(("low", "high"), [(2.0, 2.0), (3.0, 2.0), (-1.0, 2.0), (math.nan, 1.0)])
def test_empty_or_negative_span_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="not a span"):
        SigmaSpan(low, high)


def test_the_largest_floats_can_be_cut() -> None:
    low, high = tile([1e300, 1e304], 2)
    assert low.high == high.low == pytest.approx(1e302)
