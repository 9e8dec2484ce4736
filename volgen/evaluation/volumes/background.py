"""Ghosts: what of the head shows outside it, along the axis that it was moved along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from scipy import ndimage

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import HeadScan, Image


class Config(BaseConfig):
    """Mean brightness outside the head where lines along one axis, and only along that one, pass through the head.

    Motion during a scan repeats the head along the phase-encoding axis. Levels below ``floor`` count as ``floor``: a stripped volume has
    none.
    """

    kind: Literal["background"] = "background"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("ghost_level", "brightness in the head's shadow", "", "shows the head again beside it along this axis (ghosting)", "log",
               transfer=0.0),
    )  # fmt: skip

    margin: PositiveInt = 2
    """Voxels around the head that do not count: the rim of a head is half background."""
    floor: float = Field(default=0.004, gt=0, lt=1)
    """Share of the range; anything below counts as this."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Means in the three shadows; see :class:`volgen.evaluation.check.Check`."""
        if scan.ends[0] is None:
            return CheckResult({"ghost_level": (float("nan"),) * 3})
        lines = [self._shadow(scan, axis) for axis in range(3)]  # [Y, Z], [X, Z], [X, Y]: lines along each axis that meet the head
        away = [1 - line for line in lines]
        sums, counts = np.zeros(3), np.zeros(3)
        for x, plane in enumerate(scan.unit):  # what lies in one shadow alone is outside the head by itself
            along_a, along_s, off_a, off_s = lines[1][x], lines[2][x], away[1][x], away[2][x]
            sums += (
                off_s @ ((plane * lines[0]) @ off_a), off_s @ ((plane * away[0]) @ along_a), along_s @ ((plane * away[0]) @ off_a),
            )  # fmt: skip
            counts += off_s @ lines[0] @ off_a, off_s @ away[0] @ along_a, along_s @ away[0] @ off_a
        levels = np.maximum(sums / np.maximum(counts, 1), self.floor)
        return CheckResult({"ghost_level": (float(levels[0]), float(levels[1]), float(levels[2]))})

    def _shadow(self, scan: HeadScan, axis: int) -> Image:
        """1 where a line along an axis meets the head or the margin around it; a margin is what that many steps to a neighbour reach."""
        # The shadow of the grown head is the grown shadow of the head, as growing by one step commutes with looking along an axis.
        grown: NDArray[np.bool_] = ndimage.binary_dilation(scan.mask.any(axis=axis), iterations=self.margin)
        return grown.astype(np.float32)

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The values as they were measured."""
        return dict(values)
