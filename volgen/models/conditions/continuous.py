"""A number of a person, such as the age: a few waves of it and a small perceptron.

A number x becomes v = (x - centre) / spread, and v with sines and cosines of it is embedded by a perceptron (Tancik et al. 2020, with low
frequencies, because few people have to do): smooth between the people who were seen, nearly linear where there were none.

Legend: B batch, F features.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from volgen.core.cells import numeric
from volgen.models.conditions._column import NAME, ColumnConfig, asked

PERIODS = (16.0, 8.0, 4.0)
"""Periods of the waves, in spreads: two spreads to either side of the centre hold nearly everybody, which is one period of the shortest."""


class Config(ColumnConfig):
    """A number, such as ``age``; people of whom it is not known are not told it."""

    kind: Literal["continuous"] = "continuous"
    column: str = Field(default="age", pattern=NAME)
    """Column of the store's table of people; also what the condition is called."""
    centre: float | None = Field(default=None, allow_inf_nan=False)
    """Number that becomes 0, in the column's units; the mean of the people who are trained on, to two digits, if None."""
    spread: PositiveFloat | None = None
    """Difference that becomes 1, in the column's units; their standard deviation, to two digits, if None."""

    @property
    def settled(self) -> bool:
        """Whether both numbers are stated."""
        return self.centre is not None and self.spread is not None

    def settle(self, people: Sequence[Mapping[str, Any]]) -> Self:
        """Settles what is not stated: mean and standard deviation of the cohort, to two digits, which say little of anybody.

        Raises:
            ValueError: fewer than two different numbers are known.
        """
        found = torch.tensor([x for about in people if (x := numeric(self.cell(about))) is not None], dtype=torch.float64)
        if len(found.unique()) < 2:
            raise ValueError(f"'{self.column}' is known of {len(found)} of {len(people)} scans, and there are not two different numbers")
        spread = self.spread or _rounded(float(found.std()), 2)
        step = 10 ** math.floor(math.log10(spread)) / 10
        centre = self.centre if self.centre is not None else round(round(float(found.mean()) / step) * step, 12)
        return self.model_copy(update={"centre": centre, "spread": spread})

    def unlike(self, words: Collection[str] | None) -> str:
        """Words are no numbers."""
        return "" if words is None else f"it holds words ({', '.join(sorted(words)[:5])}): use kind categorical"

    def value(self, about: Mapping[str, Any]) -> float:
        """The number, in spreads from the centre."""
        return self._scaled(numeric(self.cell(about)))

    def parse(self, text: str) -> float:
        """The same of what is asked for, in the column's units; ``n/a`` is not told."""
        found = numeric(asked(text))
        if found is None and asked(text):
            raise ValueError("it is no finite number")
        return self._scaled(found)

    def _scaled(self, found: float | None) -> float:
        if found is None:
            return math.nan
        assert self.centre is not None and self.spread is not None, "settled where a recipe is loaded"
        return (found - self.centre) / self.spread

    @property
    def classes(self) -> int:
        """Zero: it is a number."""
        return 0

    def build(self, width: int) -> nn.Module:
        """[B] -> [B, width]."""
        return nn.Sequential(Waves(), nn.Linear(1 + 2 * len(PERIODS), width), nn.SiLU(), nn.Linear(width, width))


class Waves(nn.Module):
    """A number, and sines and cosines of it."""

    def forward(self, number_B: Tensor) -> Tensor:
        """[B] -> [B, F]."""
        angles = [2 * math.pi / period * number_B for period in PERIODS]
        return torch.stack([number_B, *(angle.sin() for angle in angles), *(angle.cos() for angle in angles)], dim=1)


def _rounded(number: float, digits: int) -> float:
    return float(f"{number:.{digits}g}")
