"""Every file in volgen/sampling/schedules keeps the promises of the interface."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from pydantic import ValidationError

from volgen.core.limits import MAX_POINTS
from volgen.core.registry import config_class, kinds

PACKAGE = "volgen.sampling.schedules"
KINDS = kinds(PACKAGE)


def schedule(kind: str, points: int = 32) -> Any:
    return config_class(PACKAGE, kind)(points=points)


def test_there_are_schedules() -> None:
    assert set(KINDS) >= {"karras", "log_snr", "vp_linear"}


@pytest.mark.parametrize("points", [2, 7, 32, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_grid_is_finite_positive_and_strictly_descending(kind: str, points: int) -> None:
    grid = schedule(kind, points).grid()
    assert len(grid) == points
    assert all(isinstance(sigma, float) and math.isfinite(sigma) and sigma > 0 for sigma in grid)
    assert all(a > b for a, b in itertools.pairwise(grid))


@pytest.mark.parametrize("kind", KINDS)
def test_a_grid_has_a_longest_length(kind: str) -> None:
    grid = schedule(kind, MAX_POINTS).grid()
    assert len(grid) == MAX_POINTS and all(a > b for a, b in itertools.pairwise(grid))
    with pytest.raises(ValidationError, match="less than or equal to 10000"):
        schedule(kind, MAX_POINTS + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_steps_are_a_subset_with_both_ends(kind: str) -> None:
    full = schedule(kind).grid()
    for steps in range(2, len(full) + 1):
        some = schedule(kind).grid(steps)
        assert len(some) == steps
        assert set(some) <= set(full)
        assert (some[0], some[-1]) == (full[0], full[-1])
        assert all(a > b for a, b in itertools.pairwise(some))


@pytest.mark.parametrize("kind", KINDS)
def test_more_steps_than_points_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="grid of 32 points"):
        schedule(kind).grid(33)


@pytest.mark.parametrize("kind", KINDS)
def test_highest_noise_drowns_data_in_the_model_range(kind: str) -> None:
    # The start of sampling is noise alone; what it lacks of the data's variance (at most 1) must not show.
    assert schedule(kind).grid()[0] >= 10


@pytest.mark.parametrize("kind", KINDS)
def test_settings_survive_yaml(kind: str) -> None:
    first = schedule(kind, 9)
    assert config_class(PACKAGE, kind).model_validate(first.model_dump(mode="json")).grid() == first.grid()  # type: ignore[attr-defined]
