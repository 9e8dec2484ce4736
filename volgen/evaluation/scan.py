"""A volume to be checked, and walks through it that several checks share: each is made once, slice by slice, inside the head's box.

A slice of a head fits a processor's cache, a volume does not: passing over slices many times costs little more than over the volume once.
Sums inside a mask are inner products with a mask of zeros and ones, which is many times quicker than picking the voxels out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.tissue import Tissue

Triple = tuple[float, float, float]
Curve = NDArray[np.float64]
Image = NDArray[np.float32]
FEWEST = 8  # slices that are always compared
MARGIN = 3
"""Voxels around the head that are kept: the reach of the SSIM window."""


class Stack:
    """The slices of a volume along one axis, cropped to the head's bounding box with 3 voxels around it.

    Attributes:
        count: number of slices of the whole axis.
        first: first slice that is kept.
        images: [n, rows, columns] slices in [0, 1], contiguous.
        inside: 1 in the head and 0 elsewhere, same shape.
        edge: [rows, columns] how many voxels the volume lacks of the 3 before and after the head.
    """

    def __init__(self, unit: Image, mask: NDArray[np.bool_], ends: tuple[tuple[int, int] | None, ...], axis: int) -> None:
        crop, edge = [], []
        for other in range(3):
            first, last = ends[other] or (0, 0)
            crop.append(slice(max(first - MARGIN, 0), min(last + 1 + MARGIN, unit.shape[other])))
            edge.append((crop[-1].start - first + MARGIN, last + 1 + MARGIN - crop[-1].stop))
        self.count = unit.shape[axis]
        self.first = crop[axis].start
        self.images: Image = np.ascontiguousarray(np.moveaxis(unit[tuple(crop)], axis, 0))
        self.inside: Image = np.ascontiguousarray(np.moveaxis(mask[tuple(crop)], axis, 0), dtype=np.float32)
        self.edge = [sides for other, sides in enumerate(edge) if other != axis]
        # Counts of voxels stay exact in float32 up to 4096^2 voxels in a slice.
        self.area: Curve = _per_slice(self.inside)
        self.sums: Curve = np.array([np.vdot(image, inside) for image, inside in zip(self.images, self.inside, strict=True)], np.float64)

    def compared(self, smallest_share: float) -> Iterator[int]:
        """Indices k of kept slices whose neighbours k - 1 and k + 1 are kept too, and that show enough of the head to be compared."""
        enough = large(self.area, smallest_share)
        for k in range(1, len(self.area) - 1):
            if enough[k - 1] and enough[k] and enough[k + 1]:
                yield k

    def curve(self) -> Curve:
        """One unknown entry for each slice of the whole axis."""
        return np.full(self.count, np.nan)

    def on_axis(self, kept: Curve) -> Curve:
        """A number for each slice of the whole axis from one for each kept slice (or each pair of them): 0 elsewhere."""
        found = np.zeros(self.count - (len(self.area) - len(kept)))
        found[self.first : self.first + len(kept)] = kept
        return found

    @cached_property
    def pairs(self) -> tuple[Curve, Curve, Curve]:
        """Voxels inside the head in slices z and z + 1: number, sum of ``|V(z+1) - V(z)|``, sum of ``V(z+1) - V(z)``; [count - 1] each."""
        area, change, step = (np.zeros(len(self.area) - 1) for _ in range(3))
        both, difference = np.empty_like(self.inside[0]), np.empty_like(self.images[0])
        for k in np.flatnonzero((self.area[:-1] > 0) & (self.area[1:] > 0)):
            np.multiply(self.inside[k], self.inside[k + 1], out=both)
            np.subtract(self.images[k + 1], self.images[k], out=difference)
            area[k], step[k] = both.sum(), np.vdot(difference, both)
            change[k] = np.vdot(np.abs(difference, out=difference), both)
        return self.on_axis(area), self.on_axis(change), self.on_axis(step)


class HeadScan:
    """A volume with its head mask.

    Attributes:
        unit: [X, Y, Z] in [0, 1], RAS+.
        mask: [X, Y, Z] the head.
        voxel_size: mm.
    """

    def __init__(self, unit: Image, mask: NDArray[np.bool_], voxel_size: Triple) -> None:
        self.unit = unit
        self.mask = mask
        self.voxel_size = voxel_size
        self._stacks: dict[int, Stack] = {}
        self._tissues: dict[float, Tissue] = {}

    @cached_property
    def ends(self) -> tuple[tuple[int, int] | None, ...]:
        """First and last slice that hold any of the head, per axis; None without a head."""
        along_z, along_x = np.any(self.mask, axis=2), np.any(self.mask, axis=0)
        filled = [np.flatnonzero(line) for line in (np.any(along_z, axis=1), np.any(along_z, axis=0), np.any(along_x, axis=0))]
        return tuple((int(one[0]), int(one[-1])) if one.size else None for one in filled)

    def stack(self, axis: int) -> Stack:
        """Slices along an axis; made once."""
        if axis not in self._stacks:
            self._stacks[axis] = Stack(self.unit, self.mask, self.ends, axis)
        return self._stacks[axis]

    @property
    def box(self) -> tuple[slice, ...]:
        """The smallest box that holds the head, with a voxel on either side where there is one; nothing without a head."""
        return tuple(slice(max(end[0] - 1, 0), end[1] + 2) if end else slice(0, 0) for end in self.ends)

    def tissue(self, pixel: float) -> Tissue:
        """The inside of the head on blocks of at most ``pixel`` mm; made once for each size. There has to be a head."""
        if pixel not in self._tissues:
            self._tissues[pixel] = Tissue(self.unit[self.box], self.mask[self.box], self.voxel_size, pixel)
        return self._tissues[pixel]

    def in_voxels(self, blocks: NDArray[np.bool_], factors: tuple[int, int, int]) -> NDArray[np.bool_]:
        """A part of the head's :attr:`box` in blocks of voxels as the voxels in it."""
        for axis, factor in enumerate(factors):
            blocks = np.repeat(blocks, factor, axis=axis)
        found: NDArray[np.bool_] = blocks[tuple(slice(0, size) for size in self.mask[self.box].shape)]
        return found

    def mean_difference(self, axis: int) -> float:
        """Mean |V(z + 1) - V(z)| over all pairs of voxels inside the head; NaN if there are none."""
        area, change, _ = self.stack(axis).pairs
        return float(change.sum() / area.sum()) if area.any() else float("nan")

    def pair_curve(self, axis: int, smallest_share: float) -> Curve:
        """Mean |V(z + 1) - V(z)| inside the head per slice pair; NaN where the head is smaller than a share of its largest pair."""
        area, change, _ = self.stack(axis).pairs
        return np.where(large(area, smallest_share), change / np.maximum(area, 1), np.nan)


def large(area: Curve, smallest_share: float) -> NDArray[np.bool_]:
    """Slices that show enough of the head to be compared: near its ends a slice is a few voxels, and they differ at random.

    All from the first to the last that hold the share: a small one between them is a fault, and no end. The 8 largest ones always do: in a
    head of a dozen slices there would be nothing left to compare one with.
    """
    limit = smallest_share * float(area.max(initial=0))
    if area.size >= FEWEST:
        limit = min(limit, float(np.partition(area, -FEWEST)[-FEWEST]))
    enough: NDArray[np.bool_] = area >= 1
    reached = np.flatnonzero(area >= max(limit, 1.0))
    if not reached.size:
        return np.zeros_like(enough)
    enough[: reached[0]] = enough[reached[-1] + 1 :] = False
    return enough


def _per_slice(images: Image) -> Curve:
    flat = images.reshape(len(images), -1)
    return np.asarray(flat @ np.ones(flat.shape[1], np.float32), dtype=np.float64)
