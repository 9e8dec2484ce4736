"""Integer codes of a volume: linear, over the whole range, invertible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

CodeType = Literal["uint8", "uint16"]
_SAMPLE = 101
_ROUNDING = 2.0**-20


@dataclass(frozen=True)
class Codes:
    """``value = slope * code + inter``; both are float32 numbers, because that is what a NIfTI header can hold."""

    codes: NDArray[Any]
    slope: float
    inter: float


def encode(voxels: NDArray[np.float32], dtype: CodeType, quantum: tuple[float, float] | None = None) -> Codes:
    """Quantises over [min, max] without clipping; the error is at most half a step, ``slope / 2``.

    Args:
        voxels: finite, not constant.
        dtype: 256 or 65536 levels.
        quantum: ``(slope, inter)`` of the integers that the source stored. If the voxels still are such integers, and few enough, they
            become the codes: whole numbers come back exactly, scaled ones up to float32's rounding.
    """
    levels = int(np.iinfo(dtype).max)
    values = np.asarray(voxels, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    for slope, inter in [(1.0, 0.0), *([quantum] if quantum else [])]:
        exact = _exact(values, slope, inter, low, high, levels)
        if exact is not None:
            return Codes(exact.codes.astype(dtype), exact.slope, exact.inter)
    base = np.float32(low)
    step = np.float32((high - float(base)) / levels)
    while float(step) * levels + float(base) < high or step == 0:  # rounding to float32 must not leave the top outside
        step = np.nextafter(step, np.float32(np.inf))
    codes = np.rint((values - float(base)) / float(step))
    return Codes(np.clip(codes, 0, levels).astype(dtype), float(step), float(base))


def decode(codes: NDArray[Any], slope: float, inter: float) -> NDArray[np.float32]:
    """Codes -> scanner units; the product is formed in float64, so that exact codes give exact values."""
    if (slope, inter) == (1.0, 0.0):
        return codes.astype(np.float32)
    return (codes * np.float64(slope) + np.float64(inter)).astype(np.float32)


def _exact(values: NDArray[np.float64], slope: float, inter: float, low: float, high: float, levels: int) -> Codes | None:
    """The codes on a given step if all voxels are whole multiples of it, else None."""
    if slope == 0 or abs(high - low) / abs(slope) > levels + 0.5:
        return None
    step = float(np.float32(abs(slope)))
    base = float(np.float32(round((low - inter) / abs(slope)) * abs(slope) + inter))
    if (slope, inter) == (1.0, 0.0) and low >= 0 and high <= levels:
        base = 0.0  # keep the source's own numbers where they fit
    if not _on_step(values.ravel()[::_SAMPLE], step, base):  # a resampled image fails here, long before all its voxels are tried
        return None
    codes = np.rint((values - base) / step)
    if codes.min() < 0 or codes.max() > levels or not _on_step(values, step, base):
        return None
    return Codes(codes, step, base)


def _on_step(values: NDArray[np.float64], step: float, base: float) -> bool:
    """Whether decoding returns the values, up to float32's rounding of them and of the step."""
    decoded = np.rint((values - base) / step) * step + base
    return bool(np.abs(decoded - values).max() <= min(_ROUNDING * np.abs(values).max(), 0.01 * step))
