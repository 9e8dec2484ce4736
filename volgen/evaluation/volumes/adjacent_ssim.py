"""Metric 4, second half: structural similarity of neighbouring slices, slice by slice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import MARGIN, Curve, HeadScan, Image, Stack, large
from volgen.evaluation.slices import curves, spikes, summary, triple

WINDOW = 2 * MARGIN + 1
UNBIASED = np.float32(WINDOW**2 / (WINDOW**2 - 1))
C1, C2 = np.float32(0.01**2), np.float32(0.03**2)


class Config(BaseConfig):
    """SSIM (Wang et al. 2004, 7 x 7 window, range 1) of slices z and z + 1, averaged inside the head: mean, sd and minimum along each axis.

    The sharpest spike is that of 1 - SSIM.
    """

    kind: Literal["adjacent_ssim"] = "adjacent_ssim"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("adjacent_ssim_mean", "adjacent-slice SSIM, mean", "has neighbouring slices that are less alike than in real volumes",
               "has neighbouring slices that are more alike than in real volumes (blurred)", acquisition=True),
        Metric("adjacent_ssim_sd", "adjacent-slice SSIM, sd", "", "has a likeness of neighbours that varies along the axis", "log"),
        Metric("adjacent_ssim_min", "adjacent-slice SSIM, minimum", "has two neighbouring slices that do not resemble each other",
               curve="adjacent_ssim"),
        Metric("adjacent_ssim_spike", "sharpest drop of SSIM", "", "has slices here that do not resemble their neighbours", "log",
               "adjacent_ssim_spike", transfer=0.42),
    )  # fmt: skip

    smallest_share: float = Field(default=0.35, gt=0, lt=1)
    """Slices that show less of the head than this share of the largest slice are left out."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Adjacent-slice SSIM; see :class:`volgen.evaluation.check.Check`."""
        ssim = curves(lambda axis: self._curve(scan, axis))
        sharp = curves(lambda axis: spikes(1.0 - ssim[axis]))
        values = {
            "adjacent_ssim_mean": triple(lambda axis: summary(ssim[axis], np.mean)),
            "adjacent_ssim_sd": triple(lambda axis: summary(ssim[axis], np.std)),
            "adjacent_ssim_min": triple(lambda axis: summary(ssim[axis], np.min)),
            "adjacent_ssim_spike": triple(lambda axis: summary(sharp[axis], np.max)),
        }
        return CheckResult(values, {"adjacent_ssim": ssim, "adjacent_ssim_spike": sharp})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The values as they were measured."""
        return dict(values)

    def _curve(self, scan: HeadScan, axis: int) -> Curve:
        stack = scan.stack(axis)
        area = stack.pairs[0]
        curve = np.full(len(area), np.nan)
        found = _Similarity(stack)
        for z in np.flatnonzero(large(area, self.smallest_share)):
            curve[z] = found.of_pair(int(z) - stack.first)
        return curve


class _Similarity:
    """SSIM of neighbouring slices; what is known of a slice by itself is kept for its next pair.

    The same as ``skimage.metrics.structural_similarity`` with a range of 1, which filters each slice twice.
    """

    def __init__(self, stack: Stack) -> None:
        self.images, self.inside = stack.images, stack.inside
        self.pad = stack.edge  # where a window reaches over the border of the volume, the volume is mirrored
        self.core = tuple(
            slice(MARGIN - before, size - MARGIN + after) for size, (before, after) in zip(self.images.shape[1:], self.pad, strict=True)
        )
        self._known: dict[int, tuple[Image, Image, Image]] = {}

    def of_pair(self, k: int) -> float:
        """Mean SSIM of the kept slices k and k + 1 over the voxels inside the head in both."""
        first, mean_a, square_a = self._slice(k)
        second, mean_b, square_b = self._slice(k + 1)
        self._known.pop(k, None)
        product = mean_a * mean_b
        means = mean_a * mean_a
        means += mean_b * mean_b
        covariance = _box_mean(first * second)
        covariance -= product
        variances = square_a + square_b
        variances -= means
        # ((2 m_a m_b + c1) (2 s_ab + c2)) / ((m_a^2 + m_b^2 + c1) (s_a^2 + s_b^2 + c2)), in place: slices fit the cache.
        product *= 2
        product += C1
        covariance *= 2 * UNBIASED
        covariance += C2
        product *= covariance
        means += C1
        variances *= UNBIASED
        variances += C2
        means *= variances
        product /= means
        inside = self.inside[k][self.core] * self.inside[k + 1][self.core]
        return float(np.vdot(product, inside)) / float(inside.sum())

    def _slice(self, k: int) -> tuple[Image, Image, Image]:
        if k not in self._known:
            image = self.images[k]
            if any(map(any, self.pad)):
                image = np.pad(image, self.pad, mode="symmetric")
            self._known[k] = image, _box_mean(image), _box_mean(image * image)
        return self._known[k]


def _box_mean(image: Image) -> Image:
    """Means over windows, without those that reach over the border: [rows - 6, columns - 6]."""
    rows = _sliding_sum(image, 0)
    means = _sliding_sum(rows, 1)
    means *= np.float32(1 / WINDOW**2)
    return means


def _sliding_sum(image: Image, axis: int) -> Image:
    """Sums of 7 neighbours as 4 + 2 + 1: fewer additions than one by one, and none that cancel."""
    image = image if axis == 0 else image.T
    two = image[:-1] + image[1:]
    four = two[:-2] + two[2:]
    seven: Image = four[:-3] + two[4:-1]
    seven += image[6:]
    return seven if axis == 0 else seven.T
