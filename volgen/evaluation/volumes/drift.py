"""Slices that slide ever further to one side along the stack: a slanting head, without a step between any two slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt
from scipy import ndimage

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import HeadScan, Image
from volgen.images.blocks import padded_block_means, voxels_in

SMALLEST = 1e-6
SLIDES = "slants: its slices slide to one side along the stack (drift to the {})"
Mask = NDArray[np.bool_]
Slopes = NDArray[np.float64]


class Config(BaseConfig):
    """``slant`` of two axes a and b: the correlation of dV/da and dV/db, minus ``turn`` times the mean direction of what is coarse.

    Texture that has no direction of its own gets one where slices slide: a shear V(a, b + s a) gives the correlation -s (shape from
    texture, Gårding 1992). A head that is turned changes it too, by less, and turns what is coarse along with it; that share is taken
    off. A slide of slices across a along b and one of slices across b along a look alike, but for a turn of the head.
    """

    kind: Literal["drift"] = "drift"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("slant_sideways", "slant across the stack, to the left or right", *2 * (SLIDES.format("left or right"),),
               transfer=0.03, limits=(-0.07, 0.07)),
        Metric("slant_lengthways", "slant across the stack, to the front or back, up or down",
               *2 * (SLIDES.format("front or back, up or down"),), transfer=0.07),
    )  # fmt: skip

    pixel: PositiveFloat = 2.0
    """The volume is averaged over blocks of at most this edge, in mm."""
    turn: float = Field(default=0.7, ge=0, le=2)
    """Share of the coarse direction that is put down to how the head is turned; measured on people of two cohorts, at 2 and 4 mm."""
    rim: PositiveInt = 1
    """Voxels of the rim of the head that are left out."""
    coarse_rim: PositiveInt = 3
    """The same for what is coarse, because it is smoothed by a Gaussian of one voxel."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Gradients inside the head; see :class:`volgen.evaluation.check.Check`."""
        ends = scan.ends
        if any(end is None for end in ends):
            return CheckResult({metric.name: (float("nan"),) * 3 for metric in self.metrics})
        box = tuple(slice(max(end[0] - 1, 0), end[1] + 2) for end in ends if end)
        factors = [voxels_in(size, self.pixel) for size in scan.voxel_size]
        unit = padded_block_means(scan.unit[box], factors)
        mask = padded_block_means(scan.mask[box].astype(np.float32), factors) > 0.5
        edges = [size * count for size, count in zip(scan.voxel_size, factors, strict=True)]
        fine = _gradients(unit, _core(mask, self.rim), edges)
        smooth = _gradients(ndimage.gaussian_filter(unit, 1.0), _core(mask, self.coarse_rim), edges)

        def slant(a: int, b: int) -> float:
            return _correlation(fine[a], fine[b]) - self.turn * _direction(smooth[a], smooth[b])

        sideways, across, lengthways = slant(0, 2), slant(0, 1), slant(1, 2)
        # Each axis has two directions to slide in. Sagittal slices slide to the front or up: of their two, each metric has one.
        return CheckResult({"slant_sideways": (across, across, sideways), "slant_lengthways": (sideways, lengthways, lengthways)})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The values as they were measured."""
        return dict(values)


def _core(mask: Mask, rim: int) -> Mask:
    """The mask without its rim; with it where nothing would be left."""
    core: Mask = ndimage.binary_erosion(mask, iterations=rim)
    return core if np.count_nonzero(core) > 0.1 * np.count_nonzero(mask) else mask


def _gradients(unit: Image, core: Mask, edges: list[float]) -> list[Slopes]:
    """Slopes per mm along each axis inside a mask."""
    return [
        (np.gradient(unit, edge, axis=axis) if unit.shape[axis] > 1 else np.zeros_like(unit))[core].astype(np.float64)
        for axis, edge in enumerate(edges)
    ]


def _correlation(a: Slopes, b: Slopes) -> float:
    return float(a @ b) / max(float(np.sqrt((a @ a) * (b @ b))), SMALLEST)


def _direction(a: Slopes, b: Slopes) -> float:
    """Mean of sin 2t over the directions t of a slope: how far they lean towards the diagonal, whatever their size."""
    size: Slopes = a * a + b * b
    floor = SMALLEST * float(size.mean()) + SMALLEST**2
    return float(np.mean(2 * a * b / np.maximum(size, floor)))
