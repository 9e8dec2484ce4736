"""Ghosts: what of the head shows outside it, along the axis that it was moved along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from scipy import ndimage

from volgen.core.check import CheckResult, Metric, Triple
from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """Mean brightness outside the head where lines along one axis, and only along that one, pass through the head.

    Motion during a scan repeats the head along the phase-encoding axis. Levels below ``floor`` count as ``floor``: a stripped volume has
    none.
    """

    kind: Literal["background"] = "background"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("ghost_level", "brightness in the head's shadow", "", "shows the head again beside it along this axis (ghosting)", "log"),
    )  # fmt: skip

    margin: PositiveInt = 2
    """Voxels around the head that do not count: the rim of a head is half background."""
    floor: float = Field(default=0.004, gt=0, lt=1)
    """Share of the range; anything below counts as this."""

    def measure(self, unit: NDArray[np.float32], mask: NDArray[np.bool_], voxel_size: Triple) -> CheckResult:
        """Means in the three shadows; see :class:`volgen.core.check.Check`."""
        if not mask.any():
            return CheckResult({"ghost_level": (float("nan"),) * 3})
        grown = ndimage.binary_dilation(mask, iterations=self.margin)
        shadows = [np.broadcast_to(grown.any(axis=axis, keepdims=True), mask.shape) for axis in range(3)]
        number = sum(shadow.astype(np.uint8) for shadow in shadows)
        alone = (number == 1) & ~grown
        levels = []
        for shadow in shadows:
            values = unit[alone & shadow]
            levels.append(max(float(values.mean(dtype=np.float64)) if values.size else 0.0, self.floor))
        return CheckResult({"ghost_level": (levels[0], levels[1], levels[2])})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """As measured."""
        return dict(values)
