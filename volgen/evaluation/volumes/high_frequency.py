"""Metric 8: share of high-frequency energy along each axis, as a ratio to real volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import HeadScan
from volgen.evaluation.slices import triple
from volgen.evaluation.spectrum import high_frequency_energy


class Config(BaseConfig):
    """Share ``sum_{|k| > k0} |F|^2 / sum |F|^2`` along an axis over its mean on real volumes: stops "consistent because blurred"."""

    kind: Literal["high_frequency"] = "high_frequency"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("high_frequency_ratio", "fine detail, ratio to real", "has less fine detail along this axis than real volumes",
               "has more fine detail along this axis than real volumes (noise or jitter)", "log", acquisition=True),
    )  # fmt: skip

    cutoff: float = Field(default=0.25, gt=0, lt=0.5)
    """k0 in cycles per voxel."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Share of high-frequency energy; see :class:`volgen.evaluation.check.Check`."""
        if scan.ends[0] is None:
            return CheckResult({"high_frequency_ratio": (float("nan"),) * 3})
        return CheckResult({"high_frequency_ratio": triple(lambda axis: high_frequency_energy(scan, axis, self.cutoff))})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """Ratio to the mean of real volumes."""
        name = "high_frequency_ratio"
        return {name: triple(lambda axis: values[name][axis] / means[name][axis])}
