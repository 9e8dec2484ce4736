"""Whether a volume shows a whole head or a brain without its skull: bands of the one say nothing about the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SKULL = 0.1
"""Sign of a skull from which a volume counts as a whole head. 38 stripped brains of two cohorts stay below 0.012; the same brains with
a skull of 4 to 8 mm and a scalp drawn around them, with and without a neck, have 0.25 to 0.91."""
SAMPLE_MM = 3.0
DEEPEST_MM = 25.0
BRIGHT = 0.35
FEWEST = 30


def skull_sign(unit: NDArray[np.float32], mask: NDArray[np.bool_], voxel_size: tuple[float, float, float]) -> float:
    """How clearly a dark skull lies between a bright scalp and the brain: 0 not at all, 1 black bone.

    The larger of two numbers, because the foreground's largest component can be the head with the scalp around it, or the brain alone.
    One is the dip of the median brightness on the way inward from the surface of the upper half of the mask, relative to the brighter
    places on both sides of it. The other is the volume of bright tissue outside the mask, as a share of the mask.

    Args:
        unit: [X, Y, Z] in [0, 1], RAS+.
        mask: the foreground [X, Y, Z] of :func:`volgen.checks._mask.head_mask`.
        voxel_size: mm.

    Returns:
        A number in [0, 1]; 0 for an empty mask.
    """
    every = tuple(slice(None, None, max(1, round(SAMPLE_MM / edge))) for edge in voxel_size)
    inside, values = np.pad(mask[every], 1), np.pad(unit[every], 1)
    heights = np.flatnonzero(inside.any(axis=(0, 1)))
    if not heights.size:
        return 0.0
    outside = np.count_nonzero((values > BRIGHT * np.median(values[inside])) & ~inside) / np.count_nonzero(inside)
    spacing = [max(1, round(SAMPLE_MM / edge)) * edge for edge in voxel_size]
    depth = ndimage.distance_transform_edt(inside, sampling=spacing)
    top = slice(int(heights[0] + heights[-1]) // 2, None)  # the vault: a face and a neck have no skull around them
    layer = np.ceil(depth[..., top] / max(spacing)).astype(int)
    course = []
    for number in range(1, min(int(DEEPEST_MM / max(spacing)), layer.max()) + 1):
        found = values[..., top][layer == number]
        if found.size >= FEWEST:
            course.append(float(np.median(found)))
    if not course:
        return float(min(outside, 1.0))
    way = np.array(course)
    beside = np.minimum(np.maximum.accumulate(way), np.maximum.accumulate(way[::-1])[::-1])
    dip = float(np.max(1 - way / np.maximum(beside, 1e-6)))
    return float(np.clip(max(dip, outside), 0, 1))
