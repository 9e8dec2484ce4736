"""Metric 5, the outline: overlap of the head in neighbouring slices, and how far its centre moves between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Curves, Metric, Triple
from volgen.evaluation.scan import Curve, HeadScan, large


class Config(BaseConfig):
    """``outline_loss`` is 1 - Dice of the head in slices z and z + 1; ``outline_drift`` is how far its centroid moves, in mm."""

    kind: Literal["outline"] = "outline"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("outline_loss_peak", "sharpest change of the outline", "", "has an outline that jumps here", curve="outline_loss",
               placed="high"),
        Metric("outline_drift_peak", "sharpest move of the outline's centre", "", "has a head that moves here from one slice to the next",
               curve="outline_drift", placed="high", transfer=0.0),
    )  # fmt: skip

    smallest_share: float = Field(default=0.35, gt=0, lt=1)
    """Slices that show less of the head than this share of the largest slice are left out."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Dice and centroid from the mask; see :class:`volgen.evaluation.check.Check`."""
        found = [self._axis(scan, axis) for axis in range(3)]
        loss: Curves = (found[0][0], found[1][0], found[2][0])
        drift: Curves = (found[0][1], found[1][1], found[2][1])
        return CheckResult({}, {"outline_loss": loss, "outline_drift": drift})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """Nothing: what is placed comes from the curves."""
        return dict(values)

    def _axis(self, scan: HeadScan, axis: int) -> tuple[Curve, Curve]:
        stack = scan.stack(axis)
        area = stack.area
        enough = large(stack.on_axis(area), self.smallest_share)
        both = stack.pairs[0][stack.first : stack.first + len(area) - 1]
        loss = 1 - 2 * both / np.maximum(area[:-1] + area[1:], 1)
        rows, columns = (size for other, size in enumerate(scan.voxel_size) if other != axis)
        across, down = (stack.inside.sum(axis=other, dtype=np.float64) for other in (2, 1))
        centre = np.stack([across @ (np.arange(across.shape[1]) * rows), down @ (np.arange(down.shape[1]) * columns)])
        drift = np.hypot(*np.diff(centre / np.maximum(area, 1), axis=1))
        compared = enough[:-1] & enough[1:]
        return np.where(compared, stack.on_axis(loss), np.nan), np.where(compared, stack.on_axis(drift), np.nan)
