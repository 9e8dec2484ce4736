"""Whether a volume shows a whole head or a brain without its skull: bands of the one say nothing about the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SKULL = 0.35
"""Sign of a skull from which a volume counts as a whole head. A real whole head (Colin 27 at 1, 2 and 4 mm) has 0.56 to 0.79; 113 stripped
brains of two cohorts have at most 0.19."""
SAMPLE_MM = 2.0
DEEPEST_MM = 30.0
BRIGHT = 0.35
SHARE = 25.0
FEWEST = 30


def skull_sign(unit: NDArray[np.float32], mask: NDArray[np.bool_], voxel_size: tuple[float, float, float]) -> float:
    """How clearly a dark skull lies between a bright scalp and the brain: 0 not at all, 1 black bone.

    Lines run into the vault of the head from the left, the right, behind, before and above, where they meet it about straight. On each, the
    dip is how dark it gets within 30 mm of the first bright voxel, relative to the brighter places on both sides of it. A skull is met by
    all lines, a sulcus by some: so the number is the 25th percentile of the dips. It does not ask how thick the scalp is, nor whether scalp
    and brain are one component of the mask or two.

    Args:
        unit: [X, Y, Z] in [0, 1], RAS+.
        mask: the foreground [X, Y, Z] of :func:`volgen.evaluation.mask.head_mask`.
        voxel_size: mm.

    Returns:
        A number in [0, 1]; 0 for an empty mask, and if fewer than 30 lines meet anything.
    """
    steps = [max(1, round(SAMPLE_MM / edge)) for edge in voxel_size]
    every = tuple(slice(None, None, step) for step in steps)
    inside, values = mask[every], unit[every]
    if not inside.any():
        return 0.0
    bright = BRIGHT * float(np.median(values[inside]))
    spacing = [step * edge for step, edge in zip(steps, voxel_size, strict=True)]
    dips = np.concatenate([_dips(lines, bright, round(DEEPEST_MM / mm)) for lines, mm in _lines(values, inside, spacing)])
    return float(np.clip(np.percentile(dips, SHARE), 0, 1)) if dips.size >= FEWEST else 0.0


def _lines(values: NDArray[np.float32], inside: NDArray[np.bool_], spacing: list[float]) -> Iterator[tuple[NDArray[np.float32], float]]:
    """[lines, voxels] from the outside inwards, and the distance of their voxels in mm: through the middle third, in the upper half."""
    middle = []
    for axis in range(2):
        filled = np.flatnonzero(inside.any(axis=(1 - axis, 2)))
        third = (filled[-1] - filled[0] + 1) // 3
        middle.append(slice(int(filled[0]) + third, int(filled[-1]) - third + 1))
    heights = np.flatnonzero(inside.any(axis=(0, 1)))
    half = int(heights[0] + heights[-1]) // 2
    vault = slice(half, half + max((int(heights[-1]) - half) // 2, 1))  # above it, lines from the side graze the head
    for way in (1, -1):
        yield values[::way, middle[1], vault].reshape(len(values), -1).T, spacing[0]
        yield np.moveaxis(values[middle[0], ::way, vault], 1, 2).reshape(-1, values.shape[1]), spacing[1]
    yield values[middle[0], middle[1], : half - 1 if half else None : -1].reshape(-1, values.shape[2] - half), spacing[2]


def _dips(lines: NDArray[np.float32], bright: float, depth: int) -> NDArray[np.float32]:
    """How dark each line gets between two brighter places, of those lines that meet something bright."""
    lines = lines[(lines > bright).any(axis=1)]
    first = (lines > bright).argmax(axis=1)
    padded = np.pad(lines, ((0, 0), (0, depth)))
    way = np.take_along_axis(padded, first[:, None] + np.arange(depth), axis=1)
    before, after = np.maximum.accumulate(way, axis=1), np.maximum.accumulate(way[:, ::-1], axis=1)[:, ::-1]
    dips: NDArray[np.float32] = np.max(1 - way / np.maximum(np.minimum(before, after), 1e-6), axis=1, initial=0)
    return dips
