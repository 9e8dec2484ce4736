"""Slices of a volume as every volume of a study is shown: the same number, the same size in pixels, the same way to grey levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.measure import seen
from volgen.evaluation.scan import HeadScan
from volgen.images.volume import Volume

Grey = NDArray[np.uint8]
SHOWN = (0.03, 0.97)
"""Shares of the way through the head, between which slices are shown."""
MARGIN = 2
"""Voxels around the largest head."""


@dataclass(frozen=True)
class Montage:
    """Slices of one volume across each axis, and where its head is.

    Attributes:
        stacks: ``[slices, edge, edge]`` for each axis, the other two axes in their order.
        centre: middle of the head in voxels, twice, so that it is whole.
        size: voxels of the head along each axis.
    """

    stacks: tuple[Grey, Grey, Grey]
    centre: tuple[int, int, int]
    size: tuple[int, int, int]


def cut_slices(volume: Volume, count: int) -> Montage:
    """Slices at equal shares of the way through the head; grey levels are those of the volume's own robust window.

    Args:
        volume: any volume, in any unit and orientation.
        count: slices across each axis.
    """
    unit, mask = seen(volume.reoriented("RAS").voxels)
    found = HeadScan(unit, mask, volume.voxel_size).ends
    ends = [end or (0, edge - 1) for end, edge in zip(found, unit.shape, strict=True)]
    grey = np.rint(255.0 * unit).astype(np.uint8)
    shares = np.linspace(*SHOWN, count)
    x, y, z = (np.moveaxis(np.take(grey, _places(ends[axis], shares), axis=axis), axis, 0) for axis in range(3))
    a, b, c = ((first + last, last - first + 1) for first, last in ends)
    return Montage((x, y, z), (a[0], b[0], c[0]), (a[1], b[1], c[1]))


def _places(ends: tuple[int, int], shares: NDArray[np.float64]) -> NDArray[np.int_]:
    return np.rint(ends[0] + shares * (ends[1] - ends[0])).astype(int)


def common_size(montages: Sequence[Montage]) -> tuple[int, int, int]:
    """Voxels along each axis that hold every head with a margin."""
    x, y, z = np.max([montage.size for montage in montages], axis=0) + 2 * MARGIN
    return int(x), int(y), int(z)


def frames(montage: Montage, size: Sequence[int]) -> list[Grey]:
    """The slices of a volume, axial, coronal and sagittal: ``[slices, rows, columns]``, upright, the head in the middle.

    Args:
        montage: the slices.
        size: voxels along each axis that are shown of every volume.
    """
    shown = []
    for axis in (2, 1, 0):
        across, up = (other for other in range(3) if other != axis)
        inside = _window(_window(montage.stacks[axis], 1, montage.centre[across], size[across]), 2, montage.centre[up], size[up])
        shown.append(np.ascontiguousarray(inside.transpose(0, 2, 1)[:, ::-1]))
    return shown


def _window(stack: Grey, axis: int, centre: int, size: int) -> Grey:
    """``size`` voxels around a centre, black where the volume ends."""
    first = (centre - size + 1) // 2
    around: Any = [(0, 0)] * 3
    around[axis] = (max(-first, 0), max(first + size - stack.shape[axis], 0))
    return np.take(np.pad(stack, around), np.arange(max(first, 0), max(first, 0) + size), axis=axis)
