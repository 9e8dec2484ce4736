"""Pairs of neighbouring slices, and what stands out among them. Legend: a slice pair z is the slices z and z + 1 along one axis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.check import Curves
from volgen.evaluation.scan import Curve, Triple

SPIKE_REACH = 4
REACH = 4
SIDE = 2
SHORT = 16


def triple(of_axis: Callable[[int], float]) -> Triple:
    """The three numbers of a function of the array axis."""
    return of_axis(0), of_axis(1), of_axis(2)


def curves(of_axis: Callable[[int], Curve]) -> Curves:
    """The three curves of a function of the array axis."""
    return of_axis(0), of_axis(1), of_axis(2)


def spikes(curve: Curve) -> Curve:
    """How far each entry of a non-negative curve stands out from its neighbourhood: entry / median of the 4 entries on either side.

    The median is that of the neighbours without the entry and is not let fall under half the median of the whole curve: near a zero
    of the curve everything would stand out. The largest spike of a volume, compared with the largest of each real volume, needs no
    correction for the number of slices.
    """
    if not curve.size:
        return curve
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(curve, SPIKE_REACH, constant_values=np.nan), 2 * SPIKE_REACH + 1)
    local = _median(np.delete(windows, SPIKE_REACH, axis=1), SPIKE_REACH)
    whole = float(np.nanmedian(curve)) if np.isfinite(curve).any() else 0.0
    ratio = curve / np.maximum(np.maximum(local, 0.5 * whole), 1e-6)
    return np.asarray(ratio, dtype=np.float64)


def stand_out(logs: Curve) -> Curve:
    """Each entry minus the median of its neighbourhood: the 4 entries on either side, without itself and the next ones.

    The nearest two are left out because a fault of one slice is seen in its neighbours' entries too. An entry with fewer than two known
    ones on either side is unknown: at an end, what stands out cannot be told from a slope. A curve of fewer than 16 known entries is all
    ends, and is judged to its ends.

    Args:
        logs: logarithms; NaN where unknown.
    """
    if not logs.size:
        return logs
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(logs, REACH + 1, constant_values=np.nan), 2 * REACH + 3)
    neighbours = np.delete(windows, [REACH, REACH + 1, REACH + 2], axis=1)
    known = np.isfinite(neighbours)
    between = (known[:, :REACH].sum(axis=1) >= SIDE) & (known[:, REACH:].sum(axis=1) >= SIDE)
    if np.isfinite(logs).sum() < SHORT:
        between[:] = True
    local = _median(neighbours, REACH)
    difference: Curve = np.where(between, logs - local, np.nan)
    return difference


def _median(rows: NDArray[np.float64], fewest: int) -> Curve:
    """Median of the known entries of each row; NaN where fewer than ``fewest`` are known."""
    # What is unknown sorts to the end; numpy's own median that leaves it out is thirty times slower.
    order, known = np.sort(rows, axis=1), np.isfinite(rows).sum(axis=1)
    every, last = np.arange(len(rows)), np.maximum(known - 1, 0)
    return np.where(known >= fewest, 0.5 * (order[every, last // 2] + order[every, (last + 1) // 2]), np.nan)


def summary(curve: Curve, reduce: Callable[[Curve], np.floating]) -> float:
    """A statistic of the known entries; NaN if fewer than two are known."""
    known = curve[np.isfinite(curve)]
    return float(reduce(known)) if known.size > 1 else float("nan")


def extent(mask: NDArray[np.bool_], axis: int) -> tuple[int, int] | None:
    """First and last slice that hold any of the mask."""
    filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
    return (int(filled[0]), int(filled[-1])) if filled.size else None
