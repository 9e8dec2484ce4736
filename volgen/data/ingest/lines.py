"""Interpolation along one axis at a time, as sparse matrices: what needs no rotation is done line by line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

RADIUS = 4
"""Voxels to each side that the windowed sinc reaches."""


def linear(positions: NDArray[np.float64], count: int) -> Any:
    """Weights [positions, count] of linear interpolation; outside of the line its ends are repeated.

    Args:
        positions: in voxels; 0 is the centre of the first.
        count: voxels of the line.
    """
    return _weights(positions, count, 1, lambda away: 1.0 - np.abs(away))


def sinc(positions: NDArray[np.float64], count: int) -> Any:
    """Weights [positions, count] of the Lanczos-windowed sinc (Duchon 1979), which add up to 1; beyond its ends the line is repeated."""
    return _weights(positions, count, RADIUS, lambda away: np.sinc(away) * np.sinc(away / RADIUS))


def along(values: NDArray[np.float32], axis: int, weights: Any) -> NDArray[np.float32]:
    """A volume with each line along an axis multiplied by weights [new, old]; float32."""
    lines = np.moveaxis(values, axis, 0)
    product: NDArray[np.float32] = weights @ np.ascontiguousarray(lines, dtype=np.float32).reshape(lines.shape[0], -1)
    return np.moveaxis(product.reshape(-1, *lines.shape[1:]), 0, axis)


def _weights(positions: NDArray[np.float64], count: int, radius: int, kernel: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Any:
    first = np.floor(positions).astype(int)[:, None] + np.arange(1 - radius, radius + 1)
    away = np.clip(np.abs(positions[:, None] - first), 0.0, radius)
    values = kernel(away)
    values /= values.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(positions.size), 2 * radius)
    found = csr_array((values.ravel(), (rows, np.clip(first, 0, count - 1).ravel())), shape=(positions.size, count))
    found.sum_duplicates()
    return found.astype(np.float32)
