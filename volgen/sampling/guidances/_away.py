"""What guidances share that move a denoiser away from a worse one: D' = W + w (D - W), within an interval of noise levels.

More strength makes volumes more typical, and more alike. How much of their spread is left can be seen while volumes are drawn. Let p be the
difference D(y_a) - D(y_b) of what the denoiser makes of two volumes at one noise level, and d = y_a - y_b. Along p, D' has the slope
<p, D'(y_a) - D'(y_b)> / <p, d>, and D has <p, p> / <p, d>. The probability flow dx / d ln(sigma) = x - D(x) lets a spread s change by
d ln(s) / d ln(sigma) = 1 - slope, so from the highest noise to the lowest it becomes exp(integral of (slope' - slope) d ln(sigma)) times
what it would be. That costs nothing, is exact where all directions spread alike, and is otherwise a mean over those in which volumes
differ.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.given import Given

Strength = Annotated[float, Field(ge=1.0, le=10.0)]


class AwayConfig(BaseConfig):
    """How far, and at which noise levels."""

    strength: Strength = 1.5
    """w: how many times the difference between the two denoisers counts; 1 is no guidance."""
    sigma_low: NonNegativeFloat = 0.0
    """Lowest noise level that is guided."""
    sigma_high: PositiveFloat | None = None
    """Highest noise level that is guided; all of them if None."""
    strength_above: tuple[tuple[PositiveFloat, Strength], ...] = ()
    """[SIGMA, W] pairs, falling: W is the strength above SIGMA, up to the pair before; ``strength`` is what is left below the last. What is
    in doubt differs between noise levels, so more strength at some need not cost what it costs at others."""

    @model_validator(mode="after")
    def _interval(self) -> Self:
        if self.sigma_high is not None and self.sigma_low > self.sigma_high:
            raise ValueError(f"sigma_low ({self.sigma_low}) is above sigma_high ({self.sigma_high})")
        if any(above <= below for (above, _), (below, _) in itertools.pairwise(self.strength_above)):
            raise ValueError(f"strength_above has sigmas {[sigma for sigma, _ in self.strength_above]}; expected each below the one before")
        return self

    @property
    def away(self) -> Away:
        """The same as a value, which begins to watch the spread."""
        return Away(self.strength, self.sigma_low, math.inf if self.sigma_high is None else self.sigma_high, self.strength_above)


DIGITS = 1e-6
"""Share by which noise levels have to differ: a level of the grid is itself in 32 bits too."""


def below(sigma: float, other: float) -> bool:
    """Whether a noise level lies below another one, by more than rounding."""
    return sigma < other * (1.0 - DIGITS)


@dataclass
class _Seen:
    """One volume at one noise level."""

    turn: object
    y_BCXYZ: Tensor
    better_BCXYZ: Tensor
    given: Given


@dataclass(frozen=True)
class Away:
    """The equation of this module.

    Attributes:
        strength: w.
        low: lowest noise level that is guided.
        high: highest one.
        above: noise levels above which w is another, highest first, and what it is there.
    """

    strength: float
    low: float
    high: float
    above: tuple[tuple[float, float], ...] = ()
    _last: dict[float, tuple[_Seen, Tensor]] = field(default_factory=dict)
    _slopes: dict[float, list[float]] = field(default_factory=dict)

    def guides(self, sigma: float) -> bool:
        """Whether a noise level is guided."""
        return self.strength_at(sigma) != 1.0 and not below(sigma, self.low) and not below(self.high, sigma)

    def strength_at(self, sigma: float) -> float:
        """The strength at a noise level."""
        return next((strength for level, strength in self.above if below(level, sigma)), self.strength)

    def unguided(self, sigma_B: Tensor, better_BCXYZ: Tensor) -> Tensor:
        """The better denoiser as it is, at a noise level that is not guided."""
        self._slopes[float(sigma_B[0])] = [0.0]
        return better_BCXYZ

    def moved(
        self, turn: object, y_BCXYZ: Tensor, sigma_B: Tensor, worse_BCXYZ: Tensor, better_BCXYZ: Tensor, given: Given
    ) -> Tensor:  # fmt: skip
        """D' of one volume.

        Args:
            turn: anything that is another in another step or of another volume.
            y_BCXYZ: what is denoised.
            sigma_B: its noise level.
            worse_BCXYZ: W.
            better_BCXYZ: D.
            given: what the volume is told.
        """
        x0_BCXYZ = worse_BCXYZ.lerp(better_BCXYZ, self.strength_at(float(sigma_B[0])))
        with torch.no_grad():
            self._watch(float(sigma_B[0]), _Seen(turn, y_BCXYZ.detach(), better_BCXYZ.detach(), given), x0_BCXYZ.detach())
        return x0_BCXYZ

    def noted(self) -> Mapping[str, float]:
        """The spread of volumes that is left, relative to none of this guidance; nothing before two volumes of one request are drawn."""
        found = sorted((math.log(sigma), sum(slopes) / len(slopes)) for sigma, slopes in self._slopes.items() if slopes)
        if len(found) < 2 or not any(slope for _, slope in found):
            return {}
        total = sum((b - a) * (f + g) / 2 for (a, f), (b, g) in itertools.pairwise(found))
        return {"spread": math.exp(min(max(total, -50.0), 50.0))}

    def _watch(self, sigma: float, seen: _Seen, x0_BCXYZ: Tensor) -> None:
        before = self._last.get(sigma)
        if before is not None and before[0].turn is not seen.turn and _alike(before[0], seen):
            other, guided_BCXYZ = before
            difference = seen.better_BCXYZ - other.better_BCXYZ
            along = float((difference * (seen.y_BCXYZ - other.y_BCXYZ)).sum())
            if along > 0.0:
                self._slopes.setdefault(sigma, []).append(float((difference * (x0_BCXYZ - guided_BCXYZ - difference)).sum()) / along)
        self._last.clear()  # volumes of one level follow each other; more would fill the memory
        self._last[sigma] = seen, x0_BCXYZ


def _alike(one: _Seen, other: _Seen) -> bool:
    """Whether two volumes have one shape and were asked for the same."""
    told, of_other = one.given, other.given
    same = one.y_BCXYZ.shape == other.y_BCXYZ.shape and told.channels is None and of_other.channels is None
    pairs = ((told.values, of_other.values), (told.fitted, of_other.fitted))
    return same and all(set(a) == set(b) and all(_equal(value, b[name]) for name, value in a.items()) for a, b in pairs)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal, with not told equal to not told."""
    return bool(torch.equal(one.nan_to_num(), other.nan_to_num()) and torch.equal(one.isnan(), other.isnan()))
