"""Numbers of a file that somebody may have changed: JSON tells truth from numbers, and text from both, and Python does not always."""

from __future__ import annotations

import math


def finite(value: object) -> float:
    """A finite number.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def whole_number(value: object) -> int:
    """A whole number from 0.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a whole number from 0")
    return value
