"""What a check of one volume is, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.scan import HeadScan, Triple

__all__ = ["Check", "CheckResult", "Curves", "Metric", "Triple"]

Curves = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Metric:
    """One number per axis that is compared with real volumes.

    Attributes:
        name: key in ``report.json``.
        label: a few words for people.
        low: what it means to lie below real volumes; empty if that is no fault.
        high: what it means to lie above them; empty if that is no fault.
        scale: ``log`` for positive quantities whose spread is a matter of ratios.
        curve: the curve that this number is an extreme of: its entries outside the metric's band are the slices at fault.
        placed: not returned by ``measure``: the number is how far the curve's entry that stands out most lies above (``high``) or below
            (``low``) what the volume's own neighbouring slices and real volumes at the same place in the head lead one to expect,
            in standard deviations of real volumes or, if that is more, of the volume's own entries. ``high`` words the fault either way.
        contrast: the axes are compared with one another, so that a fault along one moves the others too, the other way: only the axis
            furthest outside its band is reported.
        transfer: how far beyond its band another scanner, protocol or skull stripping may move the number, on its own scale (logarithms for
            ``log``): twice the largest move among simulated ones (``volgen bench acquisitions``). None: at will.
        acquisition: sharpness, contrast and noise as a whole: if such a number lies outside its band the same way along all three axes,
            the volume is of another acquisition than the reference (or blurred or noisy alike along all axes).
        limits: low and high end that no band reaches beyond, however few real volumes it is made from (and wide it is for it), unless one
            of them lies there; None for an end that depends on the reference alone.
        whole: one number for the whole volume, which stands at all three axes.
        brain: whether it is about the tissues of a brain, and not judged where a skull shows, in the volume or in most of the reference.
    """

    name: str
    label: str
    low: str = ""
    high: str = ""
    scale: Literal["linear", "log"] = "linear"
    curve: str = ""
    placed: Literal["", "high", "low"] = ""
    contrast: bool = False
    transfer: float | None = None
    acquisition: bool = False
    limits: tuple[float | None, float | None] = (None, None)
    whole: bool = False
    brain: bool = False


@dataclass(frozen=True)
class CheckResult:
    """What a check measured on one volume, in order of the axes R, A, S. NaN: could not be measured.

    Attributes:
        values: number per axis, by metric.
        curves: numbers along each axis, by name. A curve with n - 1 entries on an axis of n slices is one of pairs: entry z compares slices
            z and z + 1. A curve with n entries is one of slices.
    """

    values: Mapping[str, Triple]
    curves: Mapping[str, Curves] = field(default_factory=dict)


class Check(Protocol):
    """What every file in ``volgen/evaluation/volumes`` offers as ``Config``: parameters, metrics and how they are measured.

    Attributes:
        kind: name of the check.
        metrics: what it measures.
    """

    kind: str
    metrics: ClassVar[tuple[Metric, ...]]

    def measure(self, scan: HeadScan) -> CheckResult:
        """Measures a volume inside its head mask."""
        ...

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """Metrics as they are reported, given the means of ``values`` over real volumes: ratios become ratios here."""
        ...
