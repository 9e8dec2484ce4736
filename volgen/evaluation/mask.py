"""Where the head (or the stripped brain) is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from volgen.evaluation.slices import extent

RIM = 0.25
BINS = 256


def head_mask(unit: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Foreground of a volume: threshold, largest connected component, holes filled.

    Otsu's (1979) threshold splits the volume into background and head; the one used lies a quarter of the way from the mean of the one
    to the mean of the other. On T1-weighted heads Otsu's own falls between fluid and tissue and loses the rim of the brain.

    Args:
        unit: [X, Y, Z] in [0, 1]; skull-stripped or whole head.

    Returns:
        The mask [X, Y, Z]; empty if the volume is constant.
    """
    low, high = float(unit.min()), float(unit.max())
    if low == high:
        return np.zeros(unit.shape, dtype=np.bool_)
    bright = unit[unit > _otsu(unit, low, high)]
    total, head = float(unit.sum(dtype=np.float64)), float(bright.sum(dtype=np.float64))
    background, head = (total - head) / max(unit.size - bright.size, 1), head / max(bright.size, 1)
    above = unit > background + RIM * (head - background)
    crop = _box(above)
    if crop is None:
        return above
    labels, _ = ndimage.label(above[crop])
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    mask = np.zeros(unit.shape, dtype=np.bool_)
    mask[crop] = labels == sizes.argmax()
    _fill_holes(mask)
    return mask


def _otsu(unit: NDArray[np.float32], low: float, high: float) -> float:
    """Otsu's threshold from 256 bins; counting bytes two at a time is quicker than a histogram of numbers."""
    scaled = (unit - np.float32(low)) * np.float32(BINS * (1 - 1e-7) / (high - low))
    codes = np.minimum(scaled, BINS - 1).astype(np.uint8).ravel()
    even = codes.size // 2 * 2
    pairs = np.bincount(codes[:even].view(np.uint16), minlength=BINS**2).reshape(BINS, BINS)
    counts = pairs.sum(axis=0) + pairs.sum(axis=1) + np.bincount(codes[even:], minlength=BINS)
    centres = low + (np.arange(BINS) + 0.5) * ((high - low) / BINS)
    return float(threshold_otsu(hist=(counts, centres)))


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    ends = [extent(mask, axis) for axis in range(3)]
    return None if ends[0] is None else tuple(slice(one[0], one[1] + 1) for one in ends if one)


def _fill_holes(mask: NDArray[np.bool_]) -> None:
    """Fills, in place, what is not connected with the outside by faces of voxels: one labelling of the rest of the mask's box."""
    crop = _box(mask)
    rest, _ = ndimage.label(np.pad(~mask[crop], 1, constant_values=True))
    mask[crop] = rest[1:-1, 1:-1, 1:-1] != rest[0, 0, 0]


def dilated(mask: NDArray[np.bool_], voxel_size: tuple[float, float, float], millimetres: float) -> NDArray[np.bool_]:
    """The mask and everything within a distance of it, by the exact Euclidean distance in mm."""
    if not mask.any():
        return mask
    near: NDArray[np.bool_] = ndimage.distance_transform_edt(~mask, sampling=voxel_size) <= millimetres
    return near
