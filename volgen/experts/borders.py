"""At which noise an expert of a coarser level may take over: where the finer bands are so far below the noise that a Gaussian knows enough.

Above a border the finer bands are left to a Gaussian that knows their variances and nothing else (:mod:`volgen.models.model`). What that
gives away falls with their signal-to-noise, so a border lies at the lowest noise level at which that is below a bound.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveFloat

from volgen.core.config import Config

SHARE = 99.0
"""Percentile of the coefficients in the heads that the bound holds for."""


class Border(Config):
    """A border between two models that was chosen, and what is given away there."""

    level: NonNegativeInt
    """Level of the experts from this border up; its finest bands are a Gaussian's there."""
    sigma: PositiveFloat
    """Lowest of the schedule's points that they own."""
    deviation: PositiveFloat
    """Standard deviation over people of those bands: 99th percentile over coefficients in the heads."""
    decibels: float
    """Signal-to-noise of those bands at ``sigma``, 10 log10 of mean variance over sigma^2."""
    told: PositiveFloat
    """Share of their energy that each coefficient itself tells a Gaussian at ``sigma``, mean v^2/(v + s^2) over mean v. What other bands
    would tell of it is given away, and not in it."""

    @property
    def text(self) -> str:
        """The border in one line, for people."""
        return (
            f"level {self.level} from sigma {self.sigma:.4g} up, where finer bands (sd {self.deviation:.3g}) are {self.decibels:.1f} dB"
            f" against the noise: {self.told:.2%} of their energy is told by a coefficient itself"
        )


def choose(
    levels: Sequence[int], grid: Sequence[float], variances: Sequence[NDArray[np.float32]], ratio: float
) -> tuple[list[int], list[Border]]:
    """Points of a schedule for experts of some levels.

    Args:
        levels: level of each expert, lowest noise first; each higher than the one before.
        grid: the schedule's points, in any order.
        variances: those of coefficients over people, of the bands that each level splits off (:func:`volgen.models.bands.variances`).
        ratio: largest ratio of the bands' standard deviation (its 99th percentile) to the noise.

    Returns:
        Points that each expert owns, and the borders between them.

    Raises:
        ValueError: an expert would own no point.
    """
    points = sorted(grid)
    starts, borders = [0], list[Border]()
    for below, level in itertools.pairwise(levels):
        split_off = np.concatenate([variances[step] for step in range(below, level)]).astype(np.float64)
        deviation = max(_deviation(variances[step]) for step in range(level))
        wanted = deviation / ratio
        first = bisect_left(points, wanted)
        if first == len(points):
            raise ValueError(f"level {level} would begin at sigma {wanted:.4g}, above the schedule's highest, {points[-1]:.4g}")
        if first <= starts[-1]:
            raise ValueError(f"level {below} would own none of the schedule's points: level {level} begins at sigma {wanted:.4g}")
        sigma = points[first]
        told = float((split_off**2 / (split_off + sigma**2)).sum() / split_off.sum())
        decibels = 10.0 * math.log10(split_off.mean() / sigma**2)
        borders.append(Border(level=level, sigma=sigma, deviation=deviation, decibels=decibels, told=told))
        starts.append(first)
    ends = [*starts[1:], len(points)]
    return [end - start for start, end in zip(starts, ends, strict=True)], borders


def _deviation(variances: NDArray[np.float32]) -> float:
    return math.sqrt(float(np.percentile(variances, SHARE)))
