"""What every schedule promises: noise levels that fall, and that single precision can hold."""

from __future__ import annotations

import itertools
from typing import Self

from pydantic import model_validator

from volgen.core.config import Config

LOWEST, HIGHEST = 1e-7, 1e7
"""Noise levels whose squares, and the inverses of these, single precision can hold with room for more."""


class ScheduleConfig(Config):
    """Base of the schedules: refuses settings whose grid nobody could compute with."""

    def grid(self, steps: int | None = None) -> list[float]:
        """Descending noise levels; ``steps`` chooses that many of them, both ends kept."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _falls(self) -> Self:
        try:
            grid = self.grid()
        except ArithmeticError as error:
            raise ValueError(f"the noise levels cannot be computed ({error})") from None
        if grid[0] <= grid[-1]:
            raise ValueError("sigma_max must be above sigma_min")
        if not all(LOWEST <= below < above <= HIGHEST for above, below in itertools.pairwise(grid)):
            found = f"{len(grid)} noise levels, {grid[0]:g} to {grid[-1]:g}"
            raise ValueError(f"the {found}, must fall from one to the next, between {HIGHEST:g} and {LOWEST:g}")
        return self
