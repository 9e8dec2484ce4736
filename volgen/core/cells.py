"""What cells of tables say, as people write them."""

from __future__ import annotations

import math

MISSING = frozenset({"", "n/a", "na", "nan"})
"""What BIDS, and those who do not follow it, write where nothing is known; in upper or lower case."""


def says(cell: str) -> bool:
    """Whether a cell says anything."""
    return cell.strip().lower() not in MISSING


def numeric(cell: str) -> float | None:
    """The finite number that a cell says, with ``89+`` (BIDS: 89 or older) as 89; None if it says none."""
    try:
        value = float(cell.strip().removesuffix("+"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
