"""Where the head (or the stripped brain) is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

RIM = 0.25


def head_mask(unit: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Foreground of a volume: threshold, largest connected component, holes filled.

    Otsu's (1979) threshold splits the volume into background and head; the one used lies a quarter of the way from the mean of the one
    to the mean of the other. On T1-weighted heads Otsu's own falls between fluid and tissue and loses the rim of the brain.

    Args:
        unit: [X, Y, Z] in [0, 1]; skull-stripped or whole head.

    Returns:
        The mask [X, Y, Z]; empty if the volume is constant.
    """
    if unit.min() == unit.max():
        return np.zeros(unit.shape, dtype=np.bool_)
    bright = unit > threshold_otsu(unit)
    background, head = (float(unit[part].mean(dtype=np.float64)) if part.any() else 0.0 for part in (~bright, bright))
    labels, count = ndimage.label(unit > background + RIM * (head - background))
    if not count:
        return np.zeros(unit.shape, dtype=np.bool_)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(labels == sizes.argmax())
    return filled


def dilated(mask: NDArray[np.bool_], voxel_size: tuple[float, float, float], millimetres: float) -> NDArray[np.bool_]:
    """The mask and everything within a distance of it, by the exact Euclidean distance in mm."""
    if not mask.any():
        return mask
    near: NDArray[np.bool_] = ndimage.distance_transform_edt(~mask, sampling=voxel_size) <= millimetres
    return near
