"""Bounds in few digits that are still bounds: an epsilon of 3.004 is not "3", and a delta of 1.4e-5 is not "1e-05"."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal


def upper(value: float, digits: int) -> str:
    """The least number of ``digits`` significant digits that is not below ``value``."""
    return _rounded(value, digits, ROUND_CEILING)


def lower(value: float, digits: int) -> str:
    """The largest number of ``digits`` significant digits that is not above ``value``."""
    return _rounded(value, digits, ROUND_FLOOR)


def _rounded(value: float, digits: int, way: str) -> str:
    # By the digits that people write: 1e-5 in binary is a little above 0.00001, and must not become 2e-05.
    return f"{float(Context(prec=digits, rounding=way).plus(Decimal(repr(float(value))))):.{digits}g}"
