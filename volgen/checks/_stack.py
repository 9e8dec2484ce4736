"""Walks along an axis slice by slice, inside the head: small arrays that stay in the cache, however large the volume is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from volgen.checks._slices import Curve, extent, large

Image = NDArray[np.float32]
Inside = NDArray[np.bool_]
REACH = 4


class Stack:
    """The slices of a volume along one axis, cropped to the head's bounding box with one voxel around it.

    Attributes:
        count: number of slices of the whole axis.
        first: first slice that is kept.
        images: [n, rows, columns] slices in [0, 1].
        inside: the head, same shape.
    """

    def __init__(self, unit: NDArray[np.float32], mask: NDArray[np.bool_], axis: int) -> None:
        self.count = unit.shape[axis]
        crop = []
        for other in range(3):
            ends = extent(mask, other) or (0, 0)
            crop.append(slice(max(ends[0] - 1, 0), min(ends[1] + 2, unit.shape[other])))
        self.first = crop[axis].start
        self.images: Image = np.ascontiguousarray(np.moveaxis(unit[tuple(crop)], axis, 0))
        self.inside: Inside = np.ascontiguousarray(np.moveaxis(mask[tuple(crop)], axis, 0))

    def compared(self, smallest_share: float) -> Iterator[int]:
        """Indices k of kept slices whose neighbours k - 1 and k + 1 are kept too, and that show enough of the head to be compared."""
        area = self.inside.sum(axis=(1, 2))
        enough = large(area, smallest_share)
        for k in range(1, len(area) - 1):
            if enough[k - 1] and enough[k] and enough[k + 1]:
                yield k

    def curve(self) -> Curve:
        """One unknown entry for each slice of the whole axis."""
        return np.full(self.count, np.nan)


def stand_out(logs: Curve) -> Curve:
    """Each entry minus the median of its neighbourhood: the 4 entries on either side, without itself and the next ones.

    The nearest two are left out because a fault of one slice is seen in its neighbours' entries too.

    Args:
        logs: logarithms; NaN where unknown.
    """
    if not logs.size:
        return logs
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(logs, REACH + 1, constant_values=np.nan), 2 * REACH + 3)
    neighbours = np.delete(windows, [REACH, REACH + 1, REACH + 2], axis=1)
    # What is unknown sorts to the end; numpy's own median that leaves it out is thirty times slower.
    order, known = np.sort(neighbours, axis=1), np.isfinite(neighbours).sum(axis=1)
    rows, last = np.arange(len(logs)), np.maximum(known - 1, 0)
    local = np.where(known >= REACH, 0.5 * (order[rows, last // 2] + order[rows, (last + 1) // 2]), np.nan)
    difference: Curve = logs - local
    return difference
