"""The coarser levels of a scan: means over cubes of 2, 4 and 8 voxels an edge, as the store keeps them beside its voxels.

A mean is kept as a whole number with bits behind the point, so that rounding is a small part of a step of the codes: 2^-9 of one of uint8,
2^-17 of one of uint16. It is a mean of what networks see, so voxels beyond the intensity window count as its ends: clipping the mean
instead would be another number. At the far end of an edge that is no multiple the last voxel stands for those that are missing.

Legend: Z Y X voxels in stored order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from volgen.core.protocols import Shape3
from volgen.data.quantise import CodeType
from volgen.data.record import SubjectRecord

LEVELS = 3
"""Arrays ``1`` to ``3`` of a scan."""
FRACTION: Mapping[CodeType, int] = {"uint8": 8, "uint16": 16}
"""Bits behind the point, by the type of the codes."""
DTYPES: Mapping[CodeType, np.dtype[np.unsignedinteger]] = {"uint8": np.dtype(np.uint16), "uint16": np.dtype(np.uint32)}
"""Type of the means, by that of the codes."""


def shape_of(shape: Shape3, level: int) -> Shape3:
    """Voxels of a level of a scan of ``shape``: the last ones may be means of fewer."""
    x, y, z = (-(-size // 2**level) for size in shape)
    return x, y, z


def means_of(codes_ZYX: NDArray[np.unsignedinteger], record: SubjectRecord) -> Iterator[NDArray[np.unsignedinteger]]:
    """The means of each level of a record, [z, y, x], from its codes."""
    if not record.levels:
        return
    window, bits = record.intensity, FRACTION[record.dtype]
    low, high = ((limit - record.inter) / record.slope for limit in (window.low, window.high))
    fixed = np.rint(np.clip(np.arange(np.iinfo(record.dtype).max + 1), low, high).clip(0) * 2.0**bits).astype(np.uint64)
    # Sums of 512 codes of 8 bits, with 8 behind the point, fit into 32.
    wide = fixed.astype(np.uint32 if bits == 8 else np.uint64)
    edge = 2**record.levels
    sums = np.take(wide, np.pad(codes_ZYX, [(0, -size % edge) for size in codes_ZYX.shape], mode="edge"))
    for level in range(1, record.levels + 1):
        for axis in range(3):
            even, odd = (sums[(slice(None),) * axis + (slice(first, None, 2),)] for first in (0, 1))
            sums = even + odd
        half = sums.dtype.type(2 ** (3 * level - 1))
        x, y, z = shape_of(record.shape, level)
        yield ((sums[:z, :y, :x] + half) >> sums.dtype.type(3 * level)).astype(DTYPES[record.dtype])
