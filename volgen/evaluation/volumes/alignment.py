"""How far each slice is shifted in its plane, or brighter, than its neighbours lead one to expect; no registration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import HeadScan, Stack
from volgen.evaluation.slices import triple

FEWEST_VOXELS = 12


class Config(BaseConfig):
    """V(z) - M = g M + u dM/dx + v dM/dy in least squares, with M = (V(z - 1) + V(z + 1)) / 2, inside the head of all three slices.

    ``gain`` is ``|g|``: a slice that is brighter or darker by a share. ``shift`` is the length of (u, v) in voxels: a slice that moved
    within its plane (the first-order model of optical flow, Lucas and Kanade 1981). Anatomy gives both a little along every axis.
    """

    kind: Literal["alignment"] = "alignment"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("gain_peak", "sharpest change of brightness of a slice", "", "has slices here brighter or darker than their neighbours",
               curve="gain", placed="high", transfer=0.6),
        Metric("shift_peak", "largest shift of a slice within its plane", "", "has slices here that are shifted against their neighbours",
               curve="shift", placed="high", transfer=0.0),
        Metric("gain_rms", "brightness of slices against their neighbours", "",
               "changes in brightness from slice to slice more than real volumes do (banding)", "log", transfer=0.9),
        Metric("shift_rms", "shift of slices against their neighbours, in voxels", "",
               "has slices that are shifted against each other (jitter)", "log", transfer=0.5),
    )  # fmt: skip

    smallest_share: float = Field(default=0.35, gt=0, lt=1)
    """Slices that show less of the head than this share of the largest slice are left out."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Least squares, slice by slice; see :class:`volgen.evaluation.check.Check`."""
        found = [self._axis(scan.stack(axis)) for axis in range(3)]
        gain, shift = ((found[0][i], found[1][i], found[2][i]) for i in range(2))
        values = {"gain_rms": triple(lambda axis: _rms(gain[axis])), "shift_rms": triple(lambda axis: _rms(shift[axis]))}
        return CheckResult(values, {"gain": gain, "shift": shift})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The values as they were measured; what is placed comes from the curves."""
        return dict(values)

    def _axis(self, stack: Stack) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        gain, shift = stack.curve(), stack.curve()
        images, inside = stack.images, stack.inside
        rows, across = (max(size - 2, 0) for size in images.shape[1:])
        columns = np.empty((4, rows, across), np.float32)  # M, its gradients, and what is explained by them
        flat = columns.reshape(4, rows * across)
        for k in stack.compared(self.smallest_share):
            core = (inside[k - 1] * inside[k] * inside[k + 1])[1:-1, 1:-1]
            size = float(core.sum())
            if size < FEWEST_VOXELS:
                continue
            middle = 0.5 * (images[k - 1] + images[k + 1])
            np.multiply(middle[1:-1, 1:-1], core, out=columns[0])
            for column, difference in ((1, middle[2:, 1:-1] - middle[:-2, 1:-1]), (2, middle[1:-1, 2:] - middle[1:-1, :-2])):
                np.multiply(difference, 0.5 * core, out=columns[column])
            np.multiply(images[k][1:-1, 1:-1] - middle[1:-1, 1:-1], core, out=columns[3])
            products = (flat @ flat.T).astype(np.float64)
            square = products[:3, :3]
            # A touch of ridge: where a slice is flat, nothing can be said of its shift.
            square[np.diag_indices(3)] += 1e-6 * size
            g, u, v = np.linalg.solve(square, products[:3, 3])
            gain[stack.first + k], shift[stack.first + k] = abs(g), float(np.hypot(u, v))
        return gain, shift


def _rms(curve: NDArray[np.float64]) -> float:
    """Root mean square of the known entries without the largest one, which is judged as a peak; NaN if fewer than three are known."""
    known = np.sort(curve[np.isfinite(curve)])[:-1]
    return float(np.sqrt((known**2).mean())) if known.size > 1 else float("nan")
