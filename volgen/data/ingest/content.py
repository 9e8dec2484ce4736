"""What voxels themselves give away: that they are labels and no scan, or that a value stands for nothing having been measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.images.volume import Volume

FEW = 8
"""Distinct values of an image that can be no scan: a scan has noise."""
MOST = 2048
"""Distinct values that a map of labels may have."""
EQUAL = 0.7
"""Share of neighbours inside that are equal in a map of labels. Of T1w brains stored in 8 bits it is 0.02 to 0.1, of maps of 145 regions at
2 mm 0.75 (docs/store.md)."""
PADDING = 0.001
"""Share of voxels from which a constant below all others moves the intensity window, which begins at that percentile."""
FAR = 0.2
"""Share of the range of the other values by which padding lies below them, and below 0."""
LABEL_INTENTS = (1002, 1003)
"""NIfTI codes of labels and of names of regions."""
STATISTICS = range(2, 25)
"""NIfTI codes of statistics, such as correlations and p-values."""


def no_scan(voxels: NDArray[np.float32], intent: int = 0) -> str | None:
    """Why an image is no scan: a mask, a map of labels or of a statistic; None if it may be one.

    Args:
        voxels: [X, Y, Z].
        intent: NIfTI's code of what they are.
    """
    if intent in LABEL_INTENTS or intent in STATISTICS:
        return f"says that it holds {'labels' if intent in LABEL_INTENTS else 'a statistic'} (NIfTI intent {intent}), not a scan"
    # Of a scan only these planes are looked at: the values of a whole image take as long to sort as it takes to read.
    planes = voxels[:, :, :: max(1, voxels.shape[2] // 16)]
    some = planes.ravel()[::5]
    if np.unique(some).size > FEW and not _in_patches(planes, _most_frequent(some)):
        return None
    values = np.unique(voxels)
    if values.size <= FEW:
        return f"is a mask or a map of labels, not a scan: it has {values.size} different values"
    if values.size > MOST or not (values == np.rint(values)).all() or not _in_patches(voxels, _most_frequent(some)):
        return None
    return f"is a map of labels, not a scan: {values.size} whole numbers, in patches of one value"


def _in_patches(voxels: NDArray[np.float32], background: float) -> bool:
    """Whether most neighbours along the first axis, both inside, are equal."""
    first, second = voxels[:-1], voxels[1:]
    inside = (first != background) & (second != background)
    count = int(np.count_nonzero(inside))
    return count > 0 and bool(np.count_nonzero((first == second) & inside) >= EQUAL * count)


def _most_frequent(values: NDArray[np.float32]) -> float:
    """The background: that it is equal to itself says nothing."""
    distinct, counts = np.unique(values, return_counts=True)
    return float(distinct[counts.argmax()])


def without_padding(volume: Volume) -> tuple[Volume, str | None]:
    """The image with voxels that stand for "not measured" at its lowest real value, and a note; as it is, with None, if there are none.

    Padding is a negative constant, the lowest value, in at least 0.1 % of voxels, far below 0 and every other: -32768 where the field of
    view of a corrected or resampled image ended, -1000 of a viewer. It would take most of the intensity window and of the stored levels.
    """
    low = float(volume.voxels.min())
    if low >= 0:
        return volume, None
    padding = volume.voxels == low
    count = int(np.count_nonzero(padding))
    if count < PADDING * padding.size:
        return volume, None
    rest: NDArray[Any] = volume.voxels[~padding]
    if not rest.size:
        return volume, None
    bottom, top = float(rest.min()), float(np.percentile(rest[:: max(1, rest.size // 1_000_000)], 99.8))
    if min(bottom - low, -low) < FAR * max(top - bottom, 1e-30):
        return volume, None
    filled = np.where(padding, np.float32(bottom), volume.voxels)
    return Volume(filled, volume.affine), f"voxels of {low:g}, far below all others, are taken for padding and set to the lowest real value"
