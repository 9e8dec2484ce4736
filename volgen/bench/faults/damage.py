"""Faults that generators and scanners make, to be planted in real volumes at three strengths each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Brain = NDArray[np.float32]
Slices = tuple[int, int]
Planted = tuple[Brain, Slices | None]
STRENGTHS = ("weak", "medium", "strong")
EVERY_AXIS = (0, 1, 2)
CENTRAL = 0.6  # share of the head's slices that a local fault may hit: at its ends a slice is a few voxels


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        plant: (slices [n, rows, columns] in [0, 1], first and last slice with head, size, generator) -> the same with the fault, and the
            slices that it touches, or None if it is everywhere.
        sizes: weak, medium, strong.
        unit: unit of the sizes.
        axes: array axes that it can lie along.
        directed: whether it has an axis at all.
    """

    plant: Callable[[Brain, Slices, float, np.random.Generator], Planted]
    sizes: tuple[float, float, float]
    unit: str
    axes: tuple[int, ...] = EVERY_AXIS
    directed: bool = True


def plant(fault: Fault, volume: Brain, axis: int, strength: int, generator: np.random.Generator) -> Planted:
    """A copy of a volume [X, Y, Z] with a fault of strength 0, 1 or 2 along an axis, and the slices that it touches."""
    slices = np.ascontiguousarray(np.moveaxis(volume, axis, 0))
    filled = np.flatnonzero((slices > 0.1 * np.percentile(slices, 99)).sum(axis=(1, 2)) > 0.02 * slices[0].size)
    broken, places = fault.plant(slices.copy(), (int(filled[0]), int(filled[-1])), fault.sizes[strength], generator)
    return np.ascontiguousarray(np.moveaxis(broken, 0, axis)), places


def _somewhere(head: Slices, generator: np.random.Generator, length: int = 1) -> int:
    """First of ``length`` slices in the central part of the head."""
    rim = (1 - CENTRAL) / 2 * (head[1] - head[0])
    low, high = round(head[0] + rim), round(head[1] - rim) - length + 1
    return int(generator.integers(low, max(high, low) + 1))


def swap(v: Brain, head: Slices, size: float, generator: np.random.Generator) -> Planted:
    """Two slices ``size`` apart change places."""
    first = _somewhere(head, generator, int(size) + 1)
    last = first + int(size)
    v[[first, last]] = v[[last, first]]
    return v, (first, last)


def bad_slice(v: Brain, head: Slices, size: float, generator: np.random.Generator) -> Planted:
    """White noise of ``size`` of the range in the tissue of one slice."""
    z = _somewhere(head, generator)
    v[z] += np.where(v[z] > 0, generator.normal(0, size, v[z].shape), 0).astype(np.float32)
    return np.maximum(v, 0), (z, z)


def banding(v: Brain, head: Slices, size: float, generator: np.random.Generator) -> Planted:
    """Every slice has its own brightness: factors with a standard deviation of ``size``."""
    return v * (1 + generator.normal(0, size, len(v))).astype(np.float32)[:, None, None], None


def jitter(v: Brain, head: Slices, size: float, generator: np.random.Generator) -> Planted:
    """A share ``size`` of the slices is shifted by one voxel in its plane."""
    steps = ((1, 0), (-1, 0), (0, 1), (0, -1))
    chosen = generator.choice(np.arange(head[0] + 1, head[1]), max(round(size * (head[1] - head[0] - 1)), 1), replace=False)
    for z in chosen:
        v[z] = np.roll(v[z], steps[generator.integers(4)], axis=(0, 1))
    return v, None


def drift(v: Brain, head: Slices, size: float, generator: np.random.Generator) -> Planted:
    """Slices move by ``size`` voxels in all from one end of the head to the other, by whole voxels, so that none is interpolated."""
    axis, sign = int(generator.integers(2)), int(generator.choice((-1, 1)))
    for z in range(len(v)):
        share = np.clip((z - head[0]) / max(head[1] - head[0], 1), 0, 1) - 0.5
        v[z] = np.roll(v[z], sign * round(size * share), axis=axis)
    return v, None


def slide(v: Brain, head: Slices, size: float, generator: np.random.Generator) -> Planted:
    """Shifts like :func:`drift`, but by fractions of a voxel (cubic interpolation): no slice is far from where the next one is."""
    axis, sign = int(generator.integers(2)), int(generator.choice((-1, 1)))
    for z in range(len(v)):
        share = np.clip((z - head[0]) / max(head[1] - head[0], 1), 0, 1) - 0.5
        v[z] = ndimage.shift(v[z], [sign * size * share * (axis == edge) for edge in range(2)], mode="nearest")
    return np.maximum(v, 0), None


def blur_axis(v: Brain, head: Slices, size: float, generator: np.random.Generator) -> Planted:
    """Gaussian blur across the slices, sd of ``size`` voxels."""
    return ndimage.gaussian_filter1d(v, size, axis=0), None


def blur_all(v: Brain, head: Slices, size: float, generator: np.random.Generator) -> Planted:
    """Gaussian blur along all axes, sd of ``size`` voxels."""
    return ndimage.gaussian_filter(v, size), None


def seam(v: Brain, head: Slices, size: float, generator: np.random.Generator) -> Planted:
    """Makes everything brighter by ``size`` from one block border on (blocks of 16 voxels, a border in the central part)."""
    rim = (1 - CENTRAL) / 2 * (head[1] - head[0])
    borders = [z for z in range(16, len(v), 16) if head[0] + rim <= z <= head[1] - rim] or [(head[0] + head[1]) // 2]
    z = int(generator.choice(borders))
    v[z:] *= 1 + size
    return v, (z - 1, z)


def repeats(v: Brain, head: Slices, size: float, generator: np.random.Generator) -> Planted:
    """A slice stands in place of the next ``size`` slices too; half a slice is a mean of the two."""
    length = max(int(size), 1)
    z = _somewhere(head, generator, length + 1)
    share = min(size, 1.0)
    for k in range(1, length + 1):
        v[z + k] = share * v[z] + (1 - share) * v[z + k]
    return v, (z, z + length)


def flip(v: Brain, head: Slices, size: float, generator: np.random.Generator) -> Planted:
    """Exchanges left and right from the middle on, by a mirror ``size`` voxels beside the head's own middle."""
    z = (head[0] + head[1]) // 2
    filled = np.flatnonzero(v.max(axis=(0, 2)) > 0.1 * v.max())
    turned = v[z:, ::-1]
    v[z:] = np.roll(turned, filled[0] + filled[-1] + 1 - v.shape[1] + 2 * int(size), axis=1)
    return v, (z - 1, z)


def ghosting(v: Brain, head: Slices, size: float, generator: np.random.Generator) -> Planted:
    """Two ghosts of ``size`` of the brightness, a quarter of the field of view away (every fourth line of k-space is off)."""
    quarter = len(v) // 4
    return v + np.float32(size) * (np.roll(v, quarter, axis=0) + np.roll(v, -quarter, axis=0)), None


FAULTS: Mapping[str, Fault] = {
    "slice swap": Fault(swap, (1, 2, 4), "slices apart"),
    "one bad slice": Fault(bad_slice, (0.05, 0.1, 0.2), "of the range, noise"),
    "banding": Fault(banding, (0.02, 0.05, 0.1), "sd of the brightness"),
    "in-plane jitter of one voxel": Fault(jitter, (0.05, 0.2, 1.0), "of the slices"),
    "drift along the stack": Fault(drift, (2, 3, 6), "voxels in all"),
    "smooth drift along the stack": Fault(slide, (2, 4, 8), "voxels in all"),
    "blur along one axis": Fault(blur_axis, (0.4, 0.6, 1.0), "voxels, sd"),
    "blur along all axes": Fault(blur_all, (0.4, 0.6, 1.0), "voxels, sd", directed=False),
    "patch seam": Fault(seam, (0.05, 0.1, 0.2), "of the brightness"),
    "repeated slices": Fault(repeats, (0.5, 1, 3), "slices"),
    "left-right flip half-way": Fault(flip, (0, 1, 3), "voxels beside the middle", axes=(1, 2)),
    "motion ghosting": Fault(ghosting, (0.03, 0.06, 0.12), "of the brightness"),
}
