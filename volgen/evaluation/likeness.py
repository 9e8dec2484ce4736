"""Volumes as unit vectors, so that a product of two is their correlation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def standardised(volumes: Sequence[NDArray[np.float32]], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[M, voxels inside the mask], each row of mean 0 and length 1 (a constant row stays 0)."""
    rows = np.stack([v[mask] for v in volumes]).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    scaled: NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled
