"""Metric 5, the outline: overlap of the head in neighbouring slices, and how far its centre moves between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from volgen.checks._slices import Curve, large
from volgen.core.check import CheckResult, Curves, Metric, Triple
from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """``outline_loss`` is 1 - Dice of the head in slices z and z + 1; ``outline_drift`` is how far its centroid moves, in mm."""

    kind: Literal["outline"] = "outline"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("outline_loss_peak", "sharpest change of the outline", "", "has an outline that jumps here", curve="outline_loss",
               placed="high"),
        Metric("outline_drift_peak", "sharpest move of the outline's centre", "", "has a head that moves here from one slice to the next",
               curve="outline_drift", placed="high"),
    )  # fmt: skip

    smallest_share: float = Field(default=0.2, gt=0, lt=1)
    """Slices that show less of the head than this share of the largest slice are left out."""

    def measure(self, unit: NDArray[np.float32], mask: NDArray[np.bool_], voxel_size: Triple) -> CheckResult:
        """Dice and centroid from the mask; see :class:`volgen.core.check.Check`."""
        found = [self._axis(mask, voxel_size, axis) for axis in range(3)]
        loss: Curves = (found[0][0], found[1][0], found[2][0])
        drift: Curves = (found[0][1], found[1][1], found[2][1])
        return CheckResult({}, {"outline_loss": loss, "outline_drift": drift})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """Nothing: what is placed comes from the curves."""
        return dict(values)

    def _axis(self, mask: NDArray[np.bool_], voxel_size: Triple, axis: int) -> tuple[Curve, Curve]:
        moved = np.moveaxis(mask, axis, 0)
        area = moved.sum(axis=(1, 2))
        enough = large(area, self.smallest_share)
        both = (moved[:-1] & moved[1:]).sum(axis=(1, 2))
        loss = 1 - 2 * both / np.maximum(area[:-1] + area[1:], 1)
        rows, columns = (size for other, size in enumerate(voxel_size) if other != axis)
        centre = np.stack([
            moved.sum(axis=2) @ (np.arange(moved.shape[1]) * rows), moved.sum(axis=1) @ (np.arange(moved.shape[2]) * columns),
        ]) / np.maximum(area, 1)  # fmt: skip
        drift = np.hypot(*np.diff(centre, axis=1))
        compared = enough[:-1] & enough[1:]
        return np.where(compared, loss, np.nan), np.where(compared, drift, np.nan)
