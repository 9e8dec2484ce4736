"""Whether there is a whole head in the volume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from volgen.checks._slices import extent, triple
from volgen.core.check import CheckResult, Metric, Triple
from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """Length of the head along each axis in mm; 0 for a constant volume."""

    kind: Literal["extent"] = "extent"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("extent_mm", "length of the head in mm", "shows less of a head along this axis than real volumes",
               "shows a head longer along this axis than in real volumes"),
    )  # fmt: skip

    def measure(self, unit: NDArray[np.float32], mask: NDArray[np.bool_], voxel_size: Triple) -> CheckResult:
        """Edges of the mask's bounding box; see :class:`volgen.core.check.Check`."""
        ends = [extent(mask, axis) for axis in range(3)]
        return CheckResult({"extent_mm": triple(lambda axis: (e[1] - e[0] + 1) * voxel_size[axis] if (e := ends[axis]) else 0.0)})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """As measured."""
        return dict(values)
