"""Metric 7: change along one axis over that along the other two, without a reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import HeadScan
from volgen.evaluation.slices import triple


class Config(BaseConfig):
    """Ratio ``mean |dz| / (0.5 (mean |dx| + mean |dy|))``, each difference per mm: near 1 for a head, below it along a blurred axis."""

    kind: Literal["anisotropy"] = "anisotropy"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("anisotropy", "change along the axis over that across it", "is smoother along this axis than across it",
               "jumps more along this axis than across it", "log", contrast=True, transfer=0.12),
    )  # fmt: skip

    def measure(self, scan: HeadScan) -> CheckResult:
        """Ratio of mean absolute differences per mm; see :class:`volgen.evaluation.check.Check`."""
        slopes = [scan.mean_difference(axis) / scan.voxel_size[axis] for axis in range(3)]
        return CheckResult({"anisotropy": triple(lambda axis: 2 * slopes[axis] / max(sum(slopes) - slopes[axis], 1e-12))})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The values as they were measured."""
        return dict(values)
