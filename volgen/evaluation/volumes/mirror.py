"""Slices that are more like the mirror image of the next one than like itself: left and right change sides within the stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat
from scipy import fft

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import Curve, HeadScan, large
from volgen.evaluation.slices import curves, summary, triple
from volgen.images.blocks import padded_block_means, voxels_in


class Config(BaseConfig):
    """``mirror``: sum of (V(z+1) - V(z))^2 over the smallest sum of (V(z+1) - M V(z))^2, M any mirror that exchanges left and right.

    A brain is nearly symmetric, and what is not (the petalia, a ventricle larger than the other, the course of the sulci, a head off
    the middle) hardly changes from one slice to the next: the ratio is below 1. Where a stack is turned over it is above. Sagittal slices
    are compared with mirrors that exchange front and back.
    """

    kind: Literal["mirror"] = "mirror"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("mirror_max", "change between slices over that to the mirror image", "",
               "is turned over here: a slice is more like the mirror image of the next one than like itself (left and right change sides)",
               "log", "mirror", transfer=0.25, limits=(None, 1.15)),
    )  # fmt: skip

    pixel: PositiveFloat = 4.0
    """Slices are averaged over squares of at most this edge, in mm: sulci move from slice to slice."""
    smallest_share: float = Field(default=0.35, gt=0, lt=1)
    """Slices that show less of the head than this share of the largest slice are left out."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Both distances of every pair; see :class:`volgen.evaluation.check.Check`."""
        found = curves(lambda axis: self._curve(scan, axis))
        return CheckResult({"mirror_max": triple(lambda axis: summary(found[axis], np.max))}, {"mirror": found})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The values as they were measured."""
        return dict(values)

    def _curve(self, scan: HeadScan, axis: int) -> Curve:
        stack = scan.stack(axis)
        edges = [voxels_in(size, self.pixel) for other, size in enumerate(scan.voxel_size) if other != axis]
        # [n, mirrored edge, other edge]: the first edge left runs from left to right, of sagittal slices from back to front.
        images = padded_block_means(stack.images * stack.inside, (1, *edges))
        length = 2 * images.shape[1]
        waves = fft.rfft(images, length, axis=1)
        energy = np.einsum("nrc,nrc->n", images, images, dtype=np.float64)
        enough = large(stack.area, self.smallest_share)
        ratio = np.full(stack.count - 1, np.nan)
        for k in np.flatnonzero(enough[:-1] & enough[1:]):
            total = float(energy[k] + energy[k + 1])
            difference = images[k + 1] - images[k]
            # A slice and the mirror image of another have the products of a convolution: one for each place of the mirror.
            alike = float(fft.irfft((waves[k] * waves[k + 1]).sum(axis=1), length).max())
            same = float(np.vdot(difference, difference))
            ratio[stack.first + k] = max(same, 1e-6 * total) / max(total - 2 * alike, 1e-6 * total) if total > 0 else np.nan
        return ratio
