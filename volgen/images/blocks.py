"""Volumes on a coarser grid: means over blocks of voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def edge_for(shape: Sequence[int], longest: int) -> int:
    """Edge of the cubes to average over, so that no edge of a volume has more than ``longest`` voxels; at least 1."""
    return max(1, -(-max(shape) // longest))


def voxels_in(edge: float, wanted: float) -> int:
    """How many voxels of an edge in mm fit into one of the wanted edge; at least 1."""
    return max(1, int(wanted / edge + 1e-6))


def block_affine(affine: NDArray[np.float64], edges: Sequence[int]) -> NDArray[np.float64]:
    """4 x 4, indices of blocks -> mm: a block is where the middle of its voxels is.

    Args:
        affine: 4 x 4, indices of voxels -> mm.
        edges: voxels of a block along each axis.
    """
    found = affine @ np.diag([*edges, 1.0])
    found[:3, 3] += affine[:3, :3] @ ((np.asarray(edges) - 1) / 2)
    return found


def block_means(values: Image, edges: Sequence[int]) -> Image:
    """Means over blocks; what is left over at the far ends is dropped.

    Args:
        values: [X, Y, Z].
        edges: voxels of a block along each axis.
    """
    if max(edges) == 1:
        return values
    (x, f), (y, g), (z, h) = ((size // edge, edge) for size, edge in zip(values.shape, edges, strict=True))
    averaged: Image = values[: x * f, : y * g, : z * h].reshape(x, f, y, g, z, h).mean(axis=(1, 3, 5), dtype=np.float32)
    return averaged


def padded_block_means(values: Image, edges: Sequence[int]) -> Image:
    """Means over blocks, as :func:`block_means`; what is missing at the far ends is repeated."""
    if max(edges) == 1:
        return values
    return block_means(np.pad(values, [(0, -size % edge) for size, edge in zip(values.shape, edges, strict=True)], mode="edge"), edges)
