"""Metric 2: total variation along one axis in excess of the other two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import HeadScan
from volgen.evaluation.slices import triple


class Config(BaseConfig):
    """TV ratio along an axis minus the mean TV ratio of the other two: tells jitter along one axis from noise, and blur from softness."""

    kind: Literal["excess"] = "excess"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("tv_excess", "change in excess of the other axes", "is blurred along this axis more than along the other two",
               "jumps more along this axis than along the other two (slices do not fit together)", contrast=True, transfer=0.08),
    )  # fmt: skip

    def measure(self, scan: HeadScan) -> CheckResult:
        """Mean absolute difference of neighbouring slices; see :class:`volgen.evaluation.check.Check`."""
        return CheckResult({"tv_excess": triple(lambda axis: scan.mean_difference(axis))})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """Ratio of each axis to the mean of real volumes, minus the mean of the other two ratios."""
        ratios = [value / mean for value, mean in zip(values["tv_excess"], means["tv_excess"], strict=True)]
        return {"tv_excess": triple(lambda axis: ratios[axis] - (sum(ratios) - ratios[axis]) / 2)}
