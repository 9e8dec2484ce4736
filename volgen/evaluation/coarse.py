"""Volumes on a coarser grid, for checks of what spans many slices: quicker, and less moved by noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from volgen.evaluation.scan import Image


def factor(edge: float, wanted: float) -> int:
    """How many voxels of an edge in mm fit into one of the wanted edge; at least 1."""
    return max(1, int(wanted / edge + 1e-6))


def coarse(values: Image, factors: Sequence[int]) -> Image:
    """Means over blocks; what is missing at the far ends is repeated.

    Args:
        values: [X, Y, Z].
        factors: voxels of a block along each axis.
    """
    if max(factors) == 1:
        return values
    padded = np.pad(values, [(0, -n % f) for n, f in zip(values.shape, factors, strict=True)], mode="edge")
    (x, f), (y, g), (z, h) = ((n // k, k) for n, k in zip(padded.shape, factors, strict=True))
    means: Image = padded.reshape(x, f, y, g, z, h).mean(axis=(1, 3, 5), dtype=np.float32)
    return means
