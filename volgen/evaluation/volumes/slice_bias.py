"""Metric 3: differences between the means of neighbouring slices, as a ratio to real volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import Curve, HeadScan, large
from volgen.evaluation.slices import curves, spikes, summary, triple


class Config(BaseConfig):
    """Absolute difference of slice means over its mean on real volumes: banding and brightness steps.

    Both means of a pair are taken over the voxels that are inside the head in both slices, so that a change of outline is no change of
    brightness.
    """

    kind: Literal["slice_bias"] = "slice_bias"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("slice_bias_ratio", "brightness change between slices, ratio to real", "",
               "changes in brightness from slice to slice more than real volumes do (banding)", "log"),
        Metric("slice_bias_spike", "sharpest brightness step", "", "has a brightness step here that real volumes do not have", "log",
               "slice_bias_spike", transfer=0.9),
    )  # fmt: skip

    smallest_share: float = Field(default=0.35, gt=0, lt=1)
    """Slices that show less of the head than this share of the largest slice are left out."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Differences of slice means; see :class:`volgen.evaluation.check.Check`."""
        bias = curves(lambda axis: self._curve(scan, axis))
        sharp = curves(lambda axis: spikes(bias[axis]))
        values = {
            "slice_bias_ratio": triple(lambda axis: summary(bias[axis], np.mean)),
            "slice_bias_spike": triple(lambda axis: summary(sharp[axis], np.max)),
        }
        return CheckResult(values, {"slice_bias": bias, "slice_bias_spike": sharp})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The ratio to the mean of real volumes; the spike is one already."""
        ratio = triple(lambda axis: values["slice_bias_ratio"][axis] / means["slice_bias_ratio"][axis])
        return {"slice_bias_ratio": ratio, "slice_bias_spike": values["slice_bias_spike"]}

    def _curve(self, scan: HeadScan, axis: int) -> Curve:
        area, _, step = scan.stack(axis).pairs
        return np.where(large(area, self.smallest_share), np.abs(step) / np.maximum(area, 1), np.nan)
