"""What a number of two cohorts is worth: beside it the same number of real people against real people, at equal counts.

Every draw parts the real people at random: some stand in for the generated ones (as many), some are what both are compared with, and where
components are fitted, some are fitted on and compared with nothing. So value and floor are of equal counts on both sides, and of components
that have seen neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]
Statistic = Callable[[Places, Places, Places], Mapping[str, float]]
"""Numbers of two groups of rows, and of rows that components may be fitted on: ``(ours, real, fitted) -> {name: value}``."""
DRAWS = 99
"""Draws of the floor: its band goes from the second smallest to the second largest, which a new draw lies in 97 of 100 times."""
FEWER_DRAWS = 25
"""Draws over which the value is averaged."""
RESAMPLES = 199
FEWEST = 4


@dataclass(frozen=True)
class Parting:
    """How people are parted.

    Attributes:
        ours: generated volumes, and real people that stand in for them.
        real: real people that both are compared with.
        fitted: real people that components are fitted on.
    """

    ours: int
    real: int
    fitted: int

    @classmethod
    def of(cls, ours: int, real: int, *, fits: bool) -> Parting:
        """How ``ours`` generated volumes and ``real`` people are parted; ``fits`` says whether components are fitted."""
        count = min(ours, real // (3 if fits else 2))
        rest = real - count
        return cls(count, rest - rest // 2, rest // 2) if fits else cls(count, rest, 0)

    @property
    def smallest(self) -> int:
        """The smallest group."""
        return min(self.ours, self.real, *([self.fitted] if self.fitted else []))


@dataclass(frozen=True)
class Floored:
    """A number and what it is worth.

    Attributes:
        value: mean over draws of the generated volumes against real people.
        interval: 95 %, half-sample bootstrap; None where there are too few volumes.
        floor: mean over draws of real people against real people.
        band: middle 97 % of those draws.
    """

    value: float
    interval: tuple[float, float] | None
    floor: float
    band: tuple[float, float]

    @property
    def inside(self) -> bool:
        """Whether the value is one that real people have among themselves."""
        return self.band[0] <= self.value <= self.band[1]


def floored(statistic: Statistic, ours: int, real: int, parting: Parting, seed: int) -> dict[str, Floored]:
    """Numbers of generated volumes against real people, with floor, band and interval.

    Args:
        statistic: what is measured; rows ``0 ... ours - 1`` are generated, the others real.
        ours: number of generated volumes.
        real: number of real people.
        parting: how many of them are drawn.
        seed: seed of the draws.

    Returns:
        Each number of the statistic. The interval is that of halves of both groups without replacement (Politis, Romano and Wolf 1999:
        of n - m = m no factor is needed), centred on the value: a bootstrap with replacement would count pairs of a volume with itself,
        which distances, nearest neighbours and likenesses of pairs all take for a fault.
    """
    random = np.random.default_rng(seed)
    values: dict[str, list[float]] = {}
    floors: dict[str, list[float]] = {}
    halves: dict[str, list[float]] = {}
    for draw in range(max(DRAWS, RESAMPLES)):
        people = ours + random.permutation(real)
        stand_in, rest = people[: parting.ours], people[parting.ours :]
        target, fitted = rest[: parting.real], rest[parting.real :]
        chosen = random.permutation(ours)[: parting.ours]
        if draw < DRAWS:
            _note(floors, statistic(stand_in, target, fitted))
        if draw < FEWER_DRAWS:
            _note(values, statistic(chosen, target, fitted))
        if draw == 0:
            fixed = chosen, target, fitted
        if parting.smallest >= 2 * FEWEST and draw < RESAMPLES:
            half, other = (random.permutation(group)[: len(group) // 2] for group in fixed[:2])
            _note(halves, statistic(half, other, fixed[2]))
    return {name: _summed_up(found, floors[name], halves.get(name, ())) for name, found in values.items()}


def _note(into: dict[str, list[float]], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        into.setdefault(name, []).append(float(value))


def _summed_up(values: list[float], floors: list[float], halves: list[float] | tuple[()]) -> Floored:
    value, ordered = float(np.mean(values)), np.sort(floors)
    interval = None
    if len(halves):
        away = np.quantile(np.asarray(halves) - np.mean(halves), (0.025, 0.975))
        interval = value + float(away[0]), value + float(away[1])
    return Floored(value, interval, float(np.mean(floors)), (float(ordered[1]), float(ordered[-2])))
