"""Where in a volume the head is, and the box that the heads of a cohort share: work on the air around it can be left out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from volgen.core.protocols import Shape3
from volgen.data.record import SubjectRecord
from volgen.data.store import Store
from volgen.images.box import BoxConfig
from volgen.images.intensity import IntensityMap

FAINT = 0.02
"""Share of the intensity window up to which a voxel is background: air around stripped heads, and what resampling leaves in it."""
MARGIN_MM = 4.0
"""What a box has around all heads that it was made for: those of people who come later differ."""
READERS = 2


def of_codes(codes_XYZ: NDArray[np.integer], slope: float, inter: float, window: IntensityMap) -> BoxConfig:
    """The box around all voxels of a scan that are brighter than background; all of the scan if none are.

    Args:
        codes_XYZ: stored voxels.
        slope: factor of the codes.
        inter: value of code 0.
        window: the scan's intensity window.
    """
    faintest = (window.low + FAINT * (window.high - window.low) - inter) / slope
    bright_ZYX = np.greater(codes_XYZ.T, faintest)
    bright_YX = bright_ZYX.any(axis=0)
    lines = (bright_YX.any(axis=0), bright_YX.any(axis=1), bright_ZYX.reshape(len(bright_ZYX), -1).any(axis=1))
    ends = [np.flatnonzero(line)[[0, -1]] if line.any() else np.array([0, len(line) - 1]) for line in lines]
    x, y, z = (int(first) for first, _ in ends)
    i, j, k = (int(last - first) + 1 for first, last in ends)
    return BoxConfig(start=(x, y, z), size=(i, j, k))


def boxes(store: Store, records: Iterable[SubjectRecord]) -> list[BoxConfig]:
    """The box around each head: as its record says, or from its voxels where ingest did not say it yet.

    Raises:
        UserError: a scan cannot be read.
    """

    def box(record: SubjectRecord) -> BoxConfig:
        return record.foreground or of_codes(store.read_codes(record), record.slope, record.inter, record.intensity)

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(box, records))


def margins(voxel_size: tuple[float, float, float]) -> Shape3:
    """Voxels that make :data:`MARGIN_MM` along each axis, at least one."""
    x, y, z = (max(1, round(MARGIN_MM / size)) for size in voxel_size)
    return x, y, z


def smallest(wanted: BoxConfig, shape: Shape3, multiple: int, step: int) -> BoxConfig:
    """The smallest box around one that is wanted whose edges are multiples, and begins at a multiple of ``step``; all where none fits.

    Args:
        wanted: what it has to hold.
        shape: edges of the volume.
        multiple: what edges are multiples of, but those of the volume.
        step: a power of two.
    """
    axes = [_axis(*axis, multiple, step) for axis in zip(wanted.start, wanted.stop, shape, strict=True)]
    (x, i), (y, j), (z, k) = axes
    return BoxConfig(start=(x, y, z), size=(i, j, k))


def _axis(start: int, stop: int, edge: int, multiple: int, step: int) -> tuple[int, int]:
    """First voxel and size along one axis: as much room before what is wanted as behind it, if there is a choice."""
    size = math.ceil((stop - start) / multiple) * multiple
    while size < edge:
        first, last = max(0, stop - size), min(start, edge - size)
        first, last = -(-first // step), last // step
        if first <= last:
            middle = round((start - (size - (stop - start)) / 2) / step)
            return min(max(middle, first), last) * step, size
        size += multiple
    return 0, edge
