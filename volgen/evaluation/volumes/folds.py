"""Whether grey matter is folded: at a fold brightness runs on along one direction, in blotches of any contrast along none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import HeadScan

BLOTCHY = "has tissue without folds: its brightness runs on along no direction as that of gyri and sulci does (blotchy)"


class Config(BaseConfig):
    """The structure tensor, means of dV dV^T over a small window (Foerstner and Guelch 1987), with eigenvalues l1 >= l2 >= l3.

    ``(l2 - l3) / (l1 + l2 + l3)`` is how much a place is a ridge or a furrow: 0 inside of a flat sheet (l1 alone) and in texture that has
    no direction (all alike), and up to 1/2 where brightness changes across one line and not along it. ``fold_course`` is its mean inside
    the head and ``fold_variety`` its standard deviation: in brains there are sheets beside crests, in blotches every place is alike.
    Neither depends on contrast or brightness.
    """

    kind: Literal["folds"] = "folds"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("fold_course", "how far folds run on", BLOTCHY, scale="log", transfer=0.15, whole=True, brain=True),
        Metric("fold_variety", "how much folds and plain tissue differ", BLOTCHY, scale="log", transfer=0.13, whole=True, brain=True),
    )  # fmt: skip

    pixel: PositiveFloat = 2.0
    """The volume is averaged over blocks of at most this edge, in mm: voxels that are larger are taken as they are."""
    window: float = Field(default=1.0, gt=0, le=8)
    """Standard deviation of the window, in blocks."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Mean and spread over the core; see :class:`volgen.evaluation.check.Check`."""
        if scan.ends[0] is None:
            return CheckResult({metric.name: (float("nan"),) * 3 for metric in self.metrics})
        _, course = scan.tissue(self.pixel).shapes(self.window)
        return CheckResult({"fold_course": (float(course.mean()),) * 3, "fold_variety": (float(course.std()),) * 3})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The values as they were measured."""
        return dict(values)
