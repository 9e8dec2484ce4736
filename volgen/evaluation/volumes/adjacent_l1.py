"""Metric 4, first half: mean absolute difference of neighbouring slices, slice by slice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import HeadScan
from volgen.evaluation.slices import curves, spikes, summary, triple


class Config(BaseConfig):
    """L1 between slices z and z + 1 inside the head: mean, sd and minimum along each axis, and the sharpest spike."""

    kind: Literal["adjacent_l1"] = "adjacent_l1"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("adjacent_l1_mean", "adjacent-slice L1, mean", "has neighbouring slices that are more alike than in real volumes",
               "has neighbouring slices that differ more than in real volumes", "log"),
        Metric("adjacent_l1_sd", "adjacent-slice L1, sd", "", "changes unevenly from slice to slice", "log"),
        Metric("adjacent_l1_min", "adjacent-slice L1, minimum", "has two neighbouring slices that are nearly the same (a repeated slice)",
               "has no two neighbouring slices as alike as in real volumes", "log", "adjacent_l1"),
        Metric("adjacent_l1_spike", "sharpest jump between slices", "", "has slices here that do not fit their neighbours", "log",
               "adjacent_l1_spike", transfer=0.28),
    )  # fmt: skip

    smallest_share: float = Field(default=0.35, gt=0, lt=1)
    """Slices that show less of the head than this share of the largest slice are left out."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Adjacent-slice L1; see :class:`volgen.evaluation.check.Check`."""
        l1 = curves(lambda axis: scan.pair_curve(axis, self.smallest_share))
        sharp = curves(lambda axis: spikes(l1[axis]))
        values = {
            "adjacent_l1_mean": triple(lambda axis: summary(l1[axis], np.mean)),
            "adjacent_l1_sd": triple(lambda axis: summary(l1[axis], np.std)),
            "adjacent_l1_min": triple(lambda axis: summary(l1[axis], np.min)),
            "adjacent_l1_spike": triple(lambda axis: summary(sharp[axis], np.max)),
        }
        return CheckResult(values, {"adjacent_l1": l1, "adjacent_l1_spike": sharp})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The values as they were measured."""
        return dict(values)
