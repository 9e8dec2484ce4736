"""Spans of the noise axis: every sigma has exactly one owner."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SigmaSpan:
    """A half-open interval of noise levels, low <= sigma < high."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.low < self.high:
            raise ValueError(f"[{self.low}, {self.high}) is not a span of noise levels")

    def __contains__(self, sigma: float) -> bool:
        return self.low <= sigma < self.high


def tile(grid: Sequence[float], count: int, sizes: Sequence[int] = ()) -> list[SigmaSpan]:
    """Cuts the sigma axis [0, largest grid point] into ``count`` spans that own equally many points of a sampling grid, or ``sizes``.

    Expert 0 owns the lowest noise. Cuts lie half-way (in log sigma) between grid points, so rounding cannot move a point over a
    border; the last span ends at the next number above the largest point, so that it holds it. With ``count == len(grid)`` every
    expert owns one point: one network per timestep (Shibata et al. 2024).

    Args:
        grid: the sampling grid, positive noise levels in any order.
        count: number of experts, 1 <= count <= len(grid).
        sizes: points that each expert owns, lowest noise first, all of the grid's together; equally many if empty.

    Raises:
        ValueError: the experts and their sizes do not fit the grid.
    """
    points = sorted(grid)
    if not 1 <= count <= len(points):
        raise ValueError(f"{count} experts cannot share {len(points)} grid points")
    if sizes and (len(sizes) != count or sum(sizes) != len(points) or min(sizes) < 1):
        raise ValueError(f"{count} experts with {list(sizes)} points do not tile {len(points)} grid points")
    starts = [0, *itertools.accumulate(sizes)][:count] if sizes else [round(index * len(points) / count) for index in range(count)]
    # Two roots: the product of two points may overflow.
    cuts = [math.sqrt(points[start - 1]) * math.sqrt(points[start]) for start in starts[1:]]
    return [SigmaSpan(low, high) for low, high in zip([0.0, *cuts], [*cuts, math.nextafter(points[-1], math.inf)], strict=True)]


def owner(spans: Sequence[SigmaSpan], sigma: float) -> int:
    """Index of the one span that contains ``sigma``; ``spans`` are ascending and tile the axis.

    Raises:
        ValueError: ``sigma`` is negative or above the last span.
    """
    index = bisect.bisect_right([span.low for span in spans], sigma) - 1
    if index < 0 or sigma not in spans[index]:
        raise ValueError(f"no expert owns sigma {sigma}: the bank covers [{spans[0].low}, {spans[-1].high})")
    return index
