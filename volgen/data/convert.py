"""Codes -> numbers that a network sees, in an order and in portions that suit the processor's cache.

A scan is stored z, y, x. What the store reads is therefore a transposed view [X, Y, Z] of memory in stored order; turning it into C order
and into float32 voxel by voxel would take ten times as long as decoding it. The figures are in docs/performance.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.data.levels import FRACTION
from volgen.data.record import SubjectRecord

SMALL = 2**18
"""Voxels that fit the cache, so that numpy may walk through them as it likes."""


def contiguous(codes_XYZ: NDArray[Any]) -> NDArray[Any]:
    """The same codes in C order; a view if they are already."""
    if codes_XYZ.flags.c_contiguous:
        return codes_XYZ
    if codes_XYZ.size <= SMALL or codes_XYZ.ndim != 3:
        return np.ascontiguousarray(codes_XYZ)
    turned = np.empty(codes_XYZ.shape, codes_XYZ.dtype)
    for y in range(codes_XYZ.shape[1]):  # a plane is turned within the cache; numpy alone goes through memory z by z: 8 times slower
        turned[:, y] = codes_XYZ[:, y]
    return turned


def codes_to_unit(codes_XYZ: NDArray[Any], record: SubjectRecord) -> NDArray[np.float32]:
    """Codes -> [0, 1] through the record's window (dequantising and windowing are both linear); C order."""
    return _convert(codes_XYZ, record, 1.0, model=False)


def codes_to_model(codes_XYZ: NDArray[Any], record: SubjectRecord) -> NDArray[np.float32]:
    """Codes -> [-1, 1], the range of networks: twice :func:`codes_to_unit` minus one, bit for bit; C order."""
    return _convert(codes_XYZ, record, 1.0, model=True)


def means_to_model(means_XYZ: NDArray[Any], record: SubjectRecord) -> NDArray[np.float32]:
    """Means of codes as a store keeps them (:mod:`volgen.data.levels`) -> [-1, 1]; C order."""
    return _convert(means_XYZ, record, 2.0 ** -FRACTION[record.dtype], model=True)


def _convert(codes_XYZ: NDArray[Any], record: SubjectRecord, step: float, model: bool) -> NDArray[np.float32]:
    width = record.intensity.high - record.intensity.low
    factor, shift = np.float32(record.slope * step / width), np.float32((record.inter - record.intensity.low) / width)
    turned = contiguous(codes_XYZ)
    values = np.empty(turned.shape, np.float32)
    rows = max(1, SMALL // max(1, turned[:1].size))
    for start in range(0, len(turned), rows):  # four or five passes over what is in the cache instead of over memory
        part = values[start : start + rows]
        np.multiply(turned[start : start + rows], factor, out=part, dtype=np.float32)
        part += shift
        np.clip(part, 0.0, 1.0, out=part)
        if model:
            part *= 2.0
            part -= 1.0
    return values
