"""Pairs of neighbouring slices, and what stands out among them. Legend: a slice pair z is the slices z and z + 1 along one axis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from volgen.core.check import Curves, Triple

Curve = NDArray[np.float64]
SPIKE_REACH = 4


def triple(of_axis: Callable[[int], float]) -> Triple:
    """The three numbers of a function of the array axis."""
    return of_axis(0), of_axis(1), of_axis(2)


def curves(of_axis: Callable[[int], Curve]) -> Curves:
    """The three curves of a function of the array axis."""
    return of_axis(0), of_axis(1), of_axis(2)


def pair_mask(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    """Voxels whose next neighbour along ``axis`` is inside the mask too; slices first, [n - 1, ...]."""
    moved = np.moveaxis(mask, axis, 0)
    both: NDArray[np.bool_] = moved[:-1] & moved[1:]
    return both


def pair_difference(unit: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """|V(z + 1) - V(z)| with slices first, [n - 1, ...]."""
    difference: NDArray[np.float32] = np.abs(np.diff(np.moveaxis(unit, axis, 0), axis=0))
    return difference


def pair_curve(values: NDArray[np.float32], inside: NDArray[np.bool_], smallest_share: float) -> Curve:
    """Mean of ``values`` [n - 1, ...] inside a mask per slice pair; NaN where the head is smaller than a share of its largest pair."""
    area = inside.sum(axis=(1, 2))
    sums = (values * inside).sum(axis=(1, 2), dtype=np.float64)
    return np.where(large(area, smallest_share), sums / np.maximum(area, 1), np.nan)


def large(area: NDArray[np.int64], smallest_share: float) -> NDArray[np.bool_]:
    """Slices that show enough of the head to be compared: near its ends a slice is a few voxels, and they differ at random."""
    enough: NDArray[np.bool_] = area >= max(smallest_share * float(area.max(initial=0)), 1.0)
    return enough


def spikes(curve: Curve) -> Curve:
    """How far each entry of a non-negative curve stands out from its neighbourhood: entry / median of the 4 entries on either side.

    The median is that of the neighbours without the entry and is not let fall under half the median of the whole curve: near a zero
    of the curve everything would stand out. The largest spike of a volume, compared with the largest of each real volume, needs no
    correction for the number of slices.
    """
    if not curve.size:
        return curve
    padded = np.pad(curve, SPIKE_REACH, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * SPIKE_REACH + 1)
    neighbours = np.delete(windows, SPIKE_REACH, axis=1)
    known = np.isfinite(neighbours).sum(axis=1) >= SPIKE_REACH
    local = np.full(curve.shape, np.nan)
    local[known] = np.nanmedian(neighbours[known], axis=1)
    whole = float(np.nanmedian(curve)) if np.isfinite(curve).any() else 0.0
    ratio = curve / np.maximum(np.maximum(local, 0.5 * whole), 1e-6)
    return np.asarray(ratio, dtype=np.float64)


def summary(curve: Curve, reduce: Callable[[Curve], np.floating]) -> float:
    """A statistic of the known entries; NaN if fewer than two are known."""
    known = curve[np.isfinite(curve)]
    return float(reduce(known)) if known.size > 1 else float("nan")


def extent(mask: NDArray[np.bool_], axis: int) -> tuple[int, int] | None:
    """First and last slice that hold any of the mask."""
    filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
    return (int(filled[0]), int(filled[-1])) if filled.size else None


def mean_difference(unit: NDArray[np.float32], mask: NDArray[np.bool_], axis: int) -> float:
    """Mean |V(z + 1) - V(z)| over all pairs of voxels inside the mask; NaN if there are none."""
    inside = pair_mask(mask, axis)
    return float(pair_difference(unit, axis)[inside].mean(dtype=np.float64)) if inside.any() else float("nan")
