"""Rounded bounds are still bounds."""

from __future__ import annotations

import math

import pytest

from volgen.core.rounding import lower, upper


@pytest.mark.parametrize(
    ("value", "digits", "above", "below"),
    [(3.004, 3, "3.01", "3"), (1.4e-5, 1, "2e-05", "1e-05"), (1e-5, 2, "1e-05", "1e-05"), (9.999, 3, "10", "9.99"), (0.0, 3, "0", "0"),
     (math.inf, 3, "inf", "inf"), (1e-3, 2, "0.001", "0.001")],
)  # fmt: skip
def test_bounds_are_rounded_to_their_own_side(value: float, digits: int, above: str, below: str) -> None:
    assert (upper(value, digits), lower(value, digits)) == (above, below)
