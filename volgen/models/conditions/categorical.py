"""One of a few words that a person has, such as the sex or a diagnosis: a learnt row for each.

Legend: B batch, K levels.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from volgen.models.conditions._column import NAME, ColumnConfig, asked

MOST = 1024
"""Levels that make sense."""


class Config(ColumnConfig):
    """A word, such as ``sex``; people of whom it is not known, or whose word is none of the levels, are not told it."""

    kind: Literal["categorical"] = "categorical"
    column: str = Field(default="sex", pattern=NAME)
    """Column of the store's table of people; also what the condition is called."""
    levels: tuple[str, ...] = Field(default=(), max_length=MOST)
    """Words that there are, in the spelling of the table; those of the people who are trained on, if empty."""

    @model_validator(mode="after")
    def _once(self) -> Self:
        if len(set(self.levels)) < len(self.levels) or not all(asked(level) == level for level in self.levels):
            raise ValueError(f"levels {list(self.levels)} are not all words, and all different")
        return self

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it can be asked for: its levels."""
        return self.levels

    @property
    def settled(self) -> bool:
        """Whether there are levels."""
        return bool(self.levels)

    def settle(self, people: Sequence[Mapping[str, Any]]) -> Self:
        """Settles levels that are not stated: the words of the cohort, in alphabetical order.

        Raises:
            ValueError: there are fewer than two.
        """
        found = sorted({self.cell(about) for about in people} - {""})
        if len(found) < 2:
            raise ValueError(f"'{self.column}' has {len(found)} different words in {len(people)} scans")
        return self.model_copy(update={"levels": tuple(found)})

    def unlike(self, words: Collection[str] | None) -> str:
        """Levels that nobody has are spelled wrongly."""
        strange = [level for level in self.levels if words is not None and level not in words]
        return f"it has no '{strange[0]}', but {', '.join(sorted(words or ()))}" if strange else ""

    def value(self, about: Mapping[str, Any]) -> float:
        """Number of the level."""
        return self._place(self.cell(about))

    def parse(self, text: str) -> float:
        """Number of the level that is asked for; ``n/a`` is not told."""
        place = self._place(asked(text))
        if math.isnan(place) and asked(text):
            raise ValueError(f"expected one of {', '.join(self.levels)}")
        return place

    def _place(self, word: str) -> float:
        return float(self.levels.index(word)) if word in self.levels else math.nan

    @property
    def classes(self) -> int:
        """How many levels there are."""
        return len(self.levels)

    def build(self, width: int) -> nn.Module:
        """[B] -> [B, width]."""
        return nn.Sequential(OneOf(max(1, len(self.levels))), nn.Linear(max(1, len(self.levels)), width, bias=False))


class OneOf(nn.Module):
    """Numbers of levels become rows with a 1 in the place of the level.

    Args:
        levels: K.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, level_B: Tensor) -> Tensor:
        """[B] -> [B, K]."""
        rows_BK = torch.arange(self.levels, device=level_B.device) == level_B.round().clamp(0, self.levels - 1)[:, None]
        # Nothing of a number is added, so that a gradient that looks for layers goes through here.
        return rows_BK.to(level_B.dtype) + 0.0 * level_B[:, None]
