"""What is normal for a curve at each place in the head, so that a slice can stand out by less than the largest slice of real volumes does.

A curve is first freed of its volume's own level, then of its course over real volumes, then of its own neighbourhood. What remains is
divided by how much it varies over real volumes at the same place: the fissure between the hemispheres is no fault, although slices change
more there than anywhere else. Last, it is divided by the spread of what stands out in the volume itself, if that is larger than in real
volumes: one slice of a volume that is uneven throughout (thick slices resampled, a crooked head) stands out by less, and a volume that is
as even as others is judged by narrower bands for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.scan import Curve
from volgen.evaluation.slices import stand_out

POSITIONS = 41
HALF = 0.5  # of the usual value: below it, an entry's logarithm no longer runs away
SMALLEST = 1e-9
USUAL = (5.0, 95.0)
LEAST_SPREAD = 0.5  # of the median over all places: a few volumes can be alike somewhere by chance
NEAR = 2  # positions on either side that a spread is estimated together with
FEWEST = 16  # entries that the spread of one volume is estimated from: of fewer, a tenth is one slice at fault


@dataclass(frozen=True)
class Entries:
    """A curve of one volume: its known entries and where they are.

    Attributes:
        values: known entries.
        slices: their indices in the curve.
        places: where they are in the head, from its first slice (0) to its last (1).
        size: entries of the curve, known or not.
    """

    values: Curve
    slices: NDArray[np.int64]
    places: Curve
    size: int

    @classmethod
    def of(cls, curve: Curve, ends: tuple[int, int] | None, count: int) -> Self:
        """Entries of a curve along an axis of ``count`` slices with the head from ``ends[0]`` to ``ends[1]``; empty without a head."""
        known = np.flatnonzero(np.isfinite(curve)) if ends else np.zeros(0, np.int64)
        first, last = ends or (0, 0)
        # An entry of a pair stands half-way between its slices.
        places = (known + (0.5 if len(curve) < count else 0.0) - first) / max(last - first, 1)
        return cls(curve[known].astype(np.float64), known, np.clip(places, 0.0, 1.0), len(curve))


@dataclass(frozen=True)
class Placement:
    """The course of a curve along one axis over real volumes.

    Attributes:
        course: [41] usual value at equal steps from the first to the last slice of the head, relative to the volume's own level.
        spread: [41] standard deviation of what stands out there.
        low: [41] 5th percentile of the values themselves.
        high: [41] 95th percentile.
    """

    course: tuple[float, ...]
    spread: tuple[float, ...]
    low: tuple[float, ...] = (0.0,) * POSITIONS
    high: tuple[float, ...] = (1.0,) * POSITIONS

    @classmethod
    def fit(cls, volumes: Sequence[Entries]) -> Self:
        """The course of one curve of each real volume. Medians throughout, so that a few odd volumes do not matter."""
        positions = np.linspace(0.0, 1.0, POSITIONS)
        rows = [np.interp(positions, e.places, e.values, left=np.nan, right=np.nan) for e in volumes if e.values.size > 1]
        whole = np.array([row for row in rows if np.isfinite(row).any()]).reshape(-1, POSITIONS)
        table = np.array([row / max(float(np.nanmedian(row)), SMALLEST) for row in whole]).reshape(-1, POSITIONS)
        known = np.isfinite(table).any(axis=0)
        if not known.any():
            return cls((1.0,) * POSITIONS, (1.0,) * POSITIONS, high=(1.0,) * POSITIONS)
        medians = np.nanmedian(table[:, known], axis=0)
        course = np.maximum(np.interp(positions, positions[known], medians), SMALLEST)
        low, high = (np.interp(positions, positions[known], np.nanpercentile(whole[:, known], share, axis=0)) for share in USUAL)
        flat = cls(_tuple(course), (1.0,) * POSITIONS, _tuple(low), _tuple(high))
        found = [flat._heights(e) for e in volumes]
        places = np.concatenate([e.places for e in volumes])
        height = np.concatenate([out[e.slices] for out, e in zip(found, volumes, strict=True)])
        bins = np.clip(np.rint(places * (POSITIONS - 1)), 0, POSITIONS - 1)
        spread = np.full(POSITIONS, np.nan)
        for position in range(POSITIONS):
            near = height[(np.abs(bins - position) <= NEAR) & np.isfinite(height)]
            if near.size > 2 * NEAR:
                spread[position] = max(1.4826 * float(np.median(np.abs(near))), float(np.percentile(np.abs(near), 95)) / 1.96)
        if not np.isfinite(spread).any():
            return flat
        middle = float(np.nanmedian(spread))
        spread = np.maximum(np.where(np.isfinite(spread), spread, middle), max(LEAST_SPREAD * middle, SMALLEST))
        return cls(flat.course, _tuple(spread), flat.low, flat.high)

    def standing_out(self, entries: Entries) -> Curve:
        """How far each entry stands out: positive above, negative below; NaN where unknown.

        In standard deviations of real volumes at the same place, or of the volume's own entries if these spread more.
        """
        out = self._heights(entries)
        return out / _own_spread(out)

    def _heights(self, entries: Entries) -> Curve:
        out = np.full(entries.size, np.nan)
        if not entries.values.size:
            return out
        positions = np.linspace(0.0, 1.0, POSITIONS)
        usual = np.interp(entries.places, positions, self.course)
        level = max(float(np.median(entries.values / usual)), SMALLEST)
        out[entries.slices] = np.log((entries.values / (level * usual) + HALF) / (1 + HALF))
        out = stand_out(out)
        out[entries.slices] /= np.interp(entries.places, positions, self.spread)
        return out

    def extreme(self, entries: Entries, side: Literal["high", "low"]) -> float:
        """The entry that stands out most, as a positive number; 0 if none does, or too few entries are known to tell."""
        out = self.standing_out(entries)
        known = out[np.isfinite(out)]
        return max(float(known.max() if side == "high" else -known.min()), 0.0) if known.size else 0.0

    def usual(self, entries: Entries) -> NDArray[np.bool_]:
        """Which known entries lie between the 5th and the 95th percentile of real volumes at their place."""
        positions = np.linspace(0.0, 1.0, POSITIONS)
        low, high = (np.interp(entries.places, positions, ends) for ends in (self.low, self.high))
        inside: NDArray[np.bool_] = (entries.values >= low) & (entries.values <= high)
        return inside

    def to_json(self) -> dict[str, Any]:
        """The course as a plain mapping."""
        return {name: list(getattr(self, name)) for name in ("course", "spread", "low", "high")}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_json`."""
        course, spread, low, high = (tuple(float(v) for v in content[name]) for name in ("course", "spread", "low", "high"))
        if {len(row) for row in (course, spread, low, high)} != {POSITIONS} or min(*course, *spread) <= 0:
            raise ValueError(f"a placement has four rows of {POSITIONS} numbers")
        return cls(course, spread, low, high)


def _own_spread(heights: Curve) -> float:
    """Robust standard deviation of what stands out in one volume, at least 1: that of the volumes of the reference."""
    known = np.abs(heights[np.isfinite(heights)])
    if known.size < FEWEST:
        return 1.0
    # The larger of two estimates for normal numbers, from their 50th and 90th percentile: a few slices at fault move neither.
    return max(1.0, 1.4826 * float(np.median(known)), float(np.percentile(known, 90)) / 1.6449)


def _tuple(values: NDArray[Any]) -> tuple[float, ...]:
    """Six significant digits: bands are shared as a small file."""
    return tuple(float(f"{v:.6g}") for v in values)
