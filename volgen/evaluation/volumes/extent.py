"""Whether there is a whole head in the volume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import HeadScan
from volgen.evaluation.slices import triple


class Config(BaseConfig):
    """Length of the head along each axis in mm; 0 for a constant volume."""

    kind: Literal["extent"] = "extent"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("extent_mm", "length of the head in mm", "shows less of a head along this axis than real volumes",
               "shows a head longer along this axis than in real volumes", transfer=16.0),
    )  # fmt: skip

    def measure(self, scan: HeadScan) -> CheckResult:
        """Edges of the mask's bounding box; see :class:`volgen.evaluation.check.Check`."""
        ends = scan.ends
        return CheckResult({"extent_mm": triple(lambda axis: (e[1] - e[0] + 1) * scan.voxel_size[axis] if (e := ends[axis]) else 0.0)})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The values as they were measured."""
        return dict(values)
