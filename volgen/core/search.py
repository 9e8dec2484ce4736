"""Where good values of a number are looked for: what ``volgen tune`` searches."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Search:
    """An interval of values.

    Attributes:
        low: its lower end.
        high: its upper end, above the lower one.
        log: whether the logarithm is searched evenly rather than the value; only where both ends are positive.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"an interval from {self.low:g} to {self.high:g}; expected two finite numbers, the lower first")
        if self.log and self.low <= 0.0:
            raise ValueError(f"logarithms from {self.low:g} on; expected an interval of positive numbers")
