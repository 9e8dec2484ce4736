"""Metric 6, and where the course of slices breaks: one that does not belong, two that are swapped, one that is repeated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Curves, Metric, Triple
from volgen.evaluation.scan import HeadScan, Image, Stack
from volgen.evaluation.slices import triple


class Config(BaseConfig):
    """L1 distances d between slices one and two apart, over the voxels that are head in all of them.

    * ``step``: d(z, z + 1) of a pair.
    * ``order``: 2 d(z - 1, z + 1) / (d(z - 1, z) + d(z, z + 1)). Slices two apart differ more than slices one apart, unless the middle
      one does not belong there or is out of order: an outlier slice is one whose neighbours are alike while it is like neither.
    * ``misfit``: the mean of ``|V(z) - (V(z - 1) + V(z + 1)) / 2|``.
    * ``roughness``: the mean absolute second difference of slices one apart over that of slices two apart, all slices together: falls with
      blur and rises with noise or jitter, whatever the contrast. ``order_excess`` and ``roughness_excess`` compare the axes of one volume.
    """

    kind: Literal["continuity"] = "continuity"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("step_peak", "sharpest jump between two slices", "", "jumps here as real volumes do not at this place", curve="step",
               placed="high", transfer=0.0),
        Metric("step_dip", "smallest change between two slices", "", "has neighbouring slices here that are too alike (repeated?)",
               curve="step", placed="low", transfer=0.0),
        Metric("order_dip", "outlier slice: distance of its neighbours over its own distance to them", "",
               "has a slice here that is less like its neighbours than they are like each other (out of order, or it does not belong)",
               curve="order", placed="low", transfer=0.0),
        Metric("misfit_peak", "sharpest departure of a slice from the mean of its neighbours", "",
               "has slices here that lie off the course of their neighbours", curve="misfit", placed="high", transfer=0.0),
        Metric("order_mean", "change over two slices, relative to that over one",
               "changes as much over one slice as over two (slices do not follow from each other)",
               "changes too evenly from slice to slice (blurred)", "log", acquisition=True),
        Metric("order_excess", "change over two slices, relative to the other axes",
               "follows its course less along this axis than along the others",
               "is smoother along this axis than along the others (blurred)", "log", contrast=True, transfer=0.06),
        Metric("roughness", "second differences over one slice, relative to those over two",
               "has lost its finest detail along this axis (blurred)",
               "is rough along this axis (noise or jitter)", "log", acquisition=True),
        Metric("roughness_excess", "second differences, relative to the other axes",
               "has lost fine detail along this axis more than along the others (blurred)",
               "is rough along this axis more than along the others", "log", contrast=True, transfer=0.06),
    )  # fmt: skip

    smallest_share: float = Field(default=0.35, gt=0, lt=1)
    """Slices that show less of the head than this share of the largest slice are left out."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Distances along each axis; see :class:`volgen.evaluation.check.Check`."""
        axes = [self._axis(scan.stack(axis)) for axis in range(3)]
        names = ("step", "order", "misfit")
        curves: dict[str, Curves] = {name: (axes[0][name], axes[1][name], axes[2][name]) for name in names}
        order = triple(lambda axis: float(axes[axis]["order_mean"][0]))
        rough = triple(lambda axis: float(axes[axis]["roughness"][0]))
        return CheckResult(
            {"order_mean": order, "order_excess": _excess(order), "roughness": rough, "roughness_excess": _excess(rough)}, curves
        )

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The values as they were measured; what is placed comes from the curves."""
        return dict(values)

    def _axis(self, stack: Stack) -> dict[str, NDArray[np.float64]]:
        order, misfit, step = stack.curve(), stack.curve(), stack.curve()[:-1]
        images, inside = stack.images, stack.inside
        sums, seconds = np.zeros(2), np.zeros(2)
        three, five = np.empty_like(inside[0]), np.empty_like(inside[0])
        for k in stack.compared(self.smallest_share):
            np.multiply(np.multiply(inside[k - 1], inside[k], out=three), inside[k + 1], out=three)
            size = float(three.sum())
            if not size:
                continue
            a, b, c = images[k - 1 : k + 2]
            before, after, over = (_distance(d, three) / size for d in (b - a, c - b, c - a))
            second = a + c - 2 * b
            z = stack.first + k
            step[z - 1], step[z] = before, after
            order[z] = 2 * over / max(before + after, 1e-9)
            sums += over * size, 0.5 * (before + after) * size
            if 2 <= k < len(images) - 2:
                np.multiply(np.multiply(three, inside[k - 2], out=five), inside[k + 2], out=five)
                seconds += _distance(second, five), _distance(images[k - 2] + images[k + 2] - 2 * b, five)
            misfit[z] = 0.5 * _distance(second, three) / size
        ratios = [float(top / bottom) if bottom > 0 else float("nan") for top, bottom in (sums, seconds)]
        return {"step": step, "order": order, "misfit": misfit, "order_mean": np.array(ratios[:1]), "roughness": np.array(ratios[1:])}


def _distance(difference: Image, inside: Image) -> float:
    """Sum of absolute values inside a mask."""
    return float(np.vdot(np.abs(difference), inside))


def _excess(values: Triple) -> Triple:
    """Each number over the geometric mean of the other two."""
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(np.asarray(values))
    return triple(lambda axis: float(np.exp(1.5 * logs[axis] - 0.5 * logs.sum())))
