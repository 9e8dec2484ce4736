"""Metric 6, and where the course of slices breaks: one that does not belong, two that are swapped, one that is repeated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from volgen.checks._slices import triple
from volgen.checks._stack import Stack
from volgen.core.check import CheckResult, Curves, Metric, Triple
from volgen.core.config import Config as BaseConfig


class Config(BaseConfig):
    """L1 distances d between slices one and two apart, over the voxels that are head in all of them.

    * ``step``: d(z, z + 1) of a pair.
    * ``order``: 2 d(z - 1, z + 1) / (d(z - 1, z) + d(z, z + 1)). Slices two apart differ more than slices one apart, unless the middle
      one does not belong there or is out of order: an outlier slice is one whose neighbours are alike while it is like neither.
    * ``misfit``: mean |V(z) - (V(z - 1) + V(z + 1)) / 2|.
    * ``roughness``: mean |second difference of slices one apart| over that of slices two apart, all slices together: it falls with blur
      and rises with noise or jitter, whatever the contrast. ``order_excess`` and ``roughness_excess`` compare the axes of one volume.
    """

    kind: Literal["continuity"] = "continuity"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("step_peak", "sharpest jump between two slices", "", "jumps here as real volumes do not at this place", curve="step",
               placed="high"),
        Metric("step_dip", "smallest change between two slices", "", "has neighbouring slices here that are too alike (repeated?)",
               curve="step", placed="low"),
        Metric("order_dip", "outlier slice: distance of its neighbours over its own distance to them", "",
               "has a slice here that is less like its neighbours than they are like each other (out of order, or it does not belong)",
               curve="order", placed="low"),
        Metric("misfit_peak", "sharpest departure of a slice from the mean of its neighbours", "",
               "has slices here that lie off the course of their neighbours", curve="misfit", placed="high"),
        Metric("order_mean", "change over two slices, relative to that over one",
               "changes as much over one slice as over two (slices do not follow from each other)",
               "changes too evenly from slice to slice (blurred)", "log"),
        Metric("order_excess", "change over two slices, relative to the other axes",
               "follows its course less along this axis than along the others",
               "is smoother along this axis than along the others (blurred)", "log", contrast=True),
        Metric("roughness", "second differences over one slice, relative to those over two",
               "has lost its finest detail along this axis (blurred)",
               "is rough along this axis (noise or jitter)", "log"),
        Metric("roughness_excess", "second differences, relative to the other axes",
               "has lost fine detail along this axis more than along the others (blurred)",
               "is rough along this axis more than along the others", "log", contrast=True),
    )  # fmt: skip

    smallest_share: float = Field(default=0.2, gt=0, lt=1)
    """Slices that show less of the head than this share of the largest slice are left out."""

    def measure(self, unit: NDArray[np.float32], mask: NDArray[np.bool_], voxel_size: Triple) -> CheckResult:
        """Distances along each axis; see :class:`volgen.core.check.Check`."""
        axes = [self._axis(Stack(unit, mask, axis)) for axis in range(3)]
        names = ("step", "order", "misfit")
        curves: dict[str, Curves] = {name: (axes[0][name], axes[1][name], axes[2][name]) for name in names}
        order = triple(lambda axis: float(axes[axis]["order_mean"][0]))
        rough = triple(lambda axis: float(axes[axis]["roughness"][0]))
        return CheckResult(
            {"order_mean": order, "order_excess": _excess(order), "roughness": rough, "roughness_excess": _excess(rough)}, curves
        )

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """As measured; what is placed comes from the curves."""
        return dict(values)

    def _axis(self, stack: Stack) -> dict[str, NDArray[np.float64]]:
        order, misfit, step = stack.curve(), stack.curve(), stack.curve()[:-1]
        images, inside = stack.images, stack.inside
        sums, seconds = np.zeros(2), np.zeros(2)
        for k in stack.compared(self.smallest_share):
            three = inside[k - 1] & inside[k] & inside[k + 1]
            if not three.any():
                continue
            a, b, c = (images[i][three] for i in (k - 1, k, k + 1))
            before, after, over = (float(np.abs(d).mean(dtype=np.float64)) for d in (b - a, c - b, c - a))
            z = stack.first + k
            step[z - 1], step[z] = before, after
            order[z] = 2 * over / max(before + after, 1e-9)
            misfit[z] = float(np.abs(b - 0.5 * (a + c)).mean(dtype=np.float64))
            sums += over * a.size, 0.5 * (before + after) * a.size
            if 2 <= k < len(images) - 2:
                five = three & inside[k - 2] & inside[k + 2]
                m, a, b, c, n = (images[i][five] for i in range(k - 2, k + 3))
                seconds += float(np.abs(a + c - 2 * b).sum(dtype=np.float64)), float(np.abs(m + n - 2 * b).sum(dtype=np.float64))
        ratios = [float(top / bottom) if bottom > 0 else float("nan") for top, bottom in (sums, seconds)]
        return {"step": step, "order": order, "misfit": misfit, "order_mean": np.array(ratios[:1]), "roughness": np.array(ratios[1:])}


def _excess(values: Triple) -> Triple:
    """Each number over the geometric mean of the other two."""
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(np.asarray(values))
    return triple(lambda axis: float(np.exp(1.5 * logs[axis] - 0.5 * logs.sum())))
