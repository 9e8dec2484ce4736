"""How many experts there are, what each starts from and in which order they are trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from volgen.core.config import Config
from volgen.core.span import SigmaSpan, tile


class ExpertsConfig(Config):
    """A bank of K denoisers that share the sigma axis. K = 1 is the usual single network, K = T one network per timestep."""

    count: PositiveInt = 1
    """K, at most the number of points of the schedule."""
    order: Literal["high_to_low", "low_to_high"] = "high_to_low"
    """Order of training along the noise axis."""
    warm_start: Literal["neighbour", "shared", "none"] = "neighbour"
    """Weights that an expert starts from: the expert trained before it, the shared network, or random ones."""
    shared_steps: NonNegativeInt = 0
    """Steps of training one network on all noise levels first (Balaji et al. 2022, eDiff-I): a fixed count. Experts start from it."""
    on_grid: bool = True
    """Train at the schedule's points only (the noise levels that sampling visits), or anywhere inside each span (log-uniform)."""


SHARED = "shared"


@dataclass(frozen=True)
class Phase:
    """One network to train: an expert, or the shared network before them.

    Attributes:
        name: ``shared`` or the expert's index; also the name of its folder in ``experts/``.
        index: the expert's index, None for the shared network.
        span: noise levels it owns.
        points: the schedule's points inside the span, ascending; never empty.
        start: name of the phase whose exported weights it starts from, None for random ones.
        max_steps: upper bound of its training, None for that of the stopping rule.
    """

    name: str
    index: int | None
    span: SigmaSpan
    points: tuple[float, ...]
    start: str | None
    max_steps: int | None = None

    def sigma(self, quantile: float, on_grid: bool) -> float:
        """Noise level at a quantile in [0, 1) of this phase's training distribution.

        On the grid: uniform over the points, ascending. Otherwise log-uniform over the span; the lowest span starts at the
        schedule's sigma_min, because it reaches down to 0, which has no logarithm.
        """
        if on_grid:
            return self.points[int(quantile * len(self.points))]
        low, high = math.log(self.span.low or self.points[0]), math.log(self.span.high)
        # exp(log(x)) may be a rounding error beyond x, where another expert begins.
        return min(math.exp(low + quantile * (high - low)), math.nextafter(self.span.high, 0.0))


def plan(config: ExpertsConfig, grid: Sequence[float]) -> list[Phase]:
    """The phases of a run, in order of training.

    Args:
        config: the bank.
        grid: the schedule's points, in any order.
    """
    spans = tile(grid, config.count)
    ascending = sorted(grid)
    phases = []
    if config.shared_steps:
        whole = SigmaSpan(spans[0].low, spans[-1].high)
        phases.append(Phase(SHARED, None, whole, tuple(ascending), None, config.shared_steps))
    order = range(config.count - 1, -1, -1) if config.order == "high_to_low" else range(config.count)
    first = SHARED if config.shared_steps else None
    before = first
    for index in order:
        start = {"neighbour": before, "shared": SHARED, "none": None}[config.warm_start]
        points = tuple(point for point in ascending if point in spans[index])
        phases.append(Phase(str(index), index, spans[index], points, start))
        before = str(index)
    return phases
