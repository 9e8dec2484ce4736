"""Metric 1: total variation between neighbouring slices, as a ratio to real volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import HeadScan
from volgen.evaluation.slices import triple


class Config(BaseConfig):
    """Mean of ``|V(z + 1) - V(z)|`` inside the head over its mean on real volumes: above 1 is jitter, below 1 over-smooth."""

    kind: Literal["total_variation"] = "total_variation"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("tv_ratio", "slice-to-slice change, ratio to real", "changes less from slice to slice than real volumes do (blurred)",
               "changes more from slice to slice than real volumes do (jitter or noise)", "log", acquisition=True),
    )  # fmt: skip

    def measure(self, scan: HeadScan) -> CheckResult:
        """Mean absolute difference of neighbouring slices; see :class:`volgen.evaluation.check.Check`."""
        return CheckResult({"tv_ratio": triple(lambda axis: scan.mean_difference(axis))})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """Ratio to the mean of real volumes."""
        return {"tv_ratio": triple(lambda axis: values["tv_ratio"][axis] / means["tv_ratio"][axis])}
