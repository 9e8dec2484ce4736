from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volgen.experts.plan import ExpertsConfig, plan

GRID = [20.0, 5.0, 1.0, 0.3, 0.1, 0.02]


@pytest.mark.parametrize(("order", "names", "starts"), [
    ("high_to_low", ["2", "1", "0"], [None, "2", "1"]), ("low_to_high", ["0", "1", "2"], [None, "0", "1"]),
])  # fmt: skip
def test_neighbours_start_from_the_one_before(order: str, names: list[str], starts: list[str | None]) -> None:
    phases = plan(ExpertsConfig.model_validate({"count": 3, "order": order}), GRID)
    assert [phase.name for phase in phases] == names
    assert [phase.start for phase in phases] == starts
    assert sorted(point for phase in phases for point in phase.points) == sorted(GRID)


def test_the_shared_network_comes_first_and_knows_every_noise_level() -> None:
    for warm_start, starts in (("neighbour", [None, "shared", "1"]), ("shared", [None, "shared", "shared"])):
        phases = plan(ExpertsConfig.model_validate({"count": 2, "shared_steps": 9, "warm_start": warm_start}), GRID)
        assert [phase.start for phase in phases] == starts
        assert (phases[0].index, phases[0].max_steps, phases[0].points) == (None, 9, tuple(sorted(GRID)))
        assert all(phase.max_steps is None for phase in phases[1:])


def test_no_warm_start_is_none() -> None:
    assert {phase.start for phase in plan(ExpertsConfig(count=6, warm_start="none"), GRID)} == {None}


@given(st.integers(1, 6), st.floats(0.0, 1.0, exclude_max=True), st.booleans())
def test_every_drawn_noise_level_belongs_to_its_expert(count: int, quantile: float, on_grid: bool) -> None:
    for phase in plan(ExpertsConfig(count=count), GRID):
        sigma = phase.sigma(quantile, on_grid)
        assert sigma in phase.span
        assert min(GRID) <= sigma <= max(GRID)
        assert not on_grid or sigma in GRID


def test_on_the_grid_points_are_equally_likely_and_off_it_log_sigma_is_uniform() -> None:
    (phase,) = plan(ExpertsConfig(count=1), GRID)
    drawn = [phase.sigma((index + 0.5) / 600, True) for index in range(600)]
    assert {drawn.count(point) for point in GRID} == {100}
    logs = [math.log(phase.sigma(quantile, False)) for quantile in (0.0, 0.25, 0.5, 0.75, 1 - 2**-53)]
    low, high = math.log(0.02), math.log(20.0)
    assert logs == pytest.approx([low + share * (high - low) for share in (0.0, 0.25, 0.5, 0.75, 1.0)])
