"""What a promise of privacy says of every event at once: trade-off functions (f-DP; Dong, Roth & Su 2022), as a one-run audit asks them.

A mechanism is f-private if an event that has probability y in a world with a person has at least ``least(y)`` in the world without, and
the other way round. (epsilon, delta) gives one such function, several pairs of one mechanism together a larger one, mu-GDP another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from scipy.special import ndtr, ndtri


class TradeOff(Protocol):
    """A promise of privacy."""

    def least(self, likely: float) -> float:
        """The least probability, in the other world, of an event that has probability ``likely`` in [0, 1] in one of them."""
        ...


@dataclass(frozen=True)
class Pairs:
    """(epsilon, delta)-privacy for each of some pairs, which all hold.

    Attributes:
        pairs: epsilon at least 0 and delta in [0, 1].
    """

    pairs: Sequence[tuple[float, float]]

    def least(self, likely: float) -> float:
        """The largest that one of the pairs asks for: P <= e^epsilon Q + delta, of the event and of its complement."""
        return max(0.0, *[slope * likely + height for slope, height in self._lines])

    @cached_property
    def _lines(self) -> list[tuple[float, float]]:
        """Slope and height of the lines that probabilities in the other world stay above."""
        grow = [(math.exp(min(epsilon, 700.0)), delta) for epsilon, delta in self.pairs]
        return [line for odds, delta in grow for line in ((1.0 / odds, -delta / odds), (odds, 1.0 - delta - odds))]


@dataclass(frozen=True)
class Gaussian:
    """mu-GDP: no event tells the worlds apart better than one look at a normal number whose mean differs by mu standard deviations.

    Attributes:
        mu: at least 0.
    """

    mu: float

    def least(self, likely: float) -> float:
        """Phi(Phi^-1(likely) - mu)."""
        return float(ndtr(ndtri(likely) - self.mu))
