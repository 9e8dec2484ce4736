"""Metric 4, second half: structural similarity of neighbouring slices, slice by slice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from skimage.metrics import structural_similarity

from volgen.checks._slices import Curve, curves, extent, large, pair_mask, spikes, summary, triple
from volgen.core.check import CheckResult, Metric, Triple
from volgen.core.config import Config as BaseConfig

WINDOW = 7


class Config(BaseConfig):
    """SSIM (Wang et al. 2004, 7 x 7 window, range 1) of slices z and z + 1, averaged inside the head: mean, sd and minimum along each axis.

    The sharpest spike is that of 1 - SSIM.
    """

    kind: Literal["adjacent_ssim"] = "adjacent_ssim"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("adjacent_ssim_mean", "adjacent-slice SSIM, mean", "has neighbouring slices that are less alike than in real volumes",
               "has neighbouring slices that are more alike than in real volumes (blurred)"),
        Metric("adjacent_ssim_sd", "adjacent-slice SSIM, sd", "", "has a likeness of neighbours that varies along the axis", "log"),
        Metric("adjacent_ssim_min", "adjacent-slice SSIM, minimum", "has two neighbouring slices that do not resemble each other",
               curve="adjacent_ssim"),
        Metric("adjacent_ssim_spike", "sharpest drop of SSIM", "", "has slices here that do not resemble their neighbours", "log",
               "adjacent_ssim_spike"),
    )  # fmt: skip

    smallest_share: float = Field(default=0.2, gt=0, lt=1)
    """Slices that show less of the head than this share of the largest slice are left out."""

    def measure(self, unit: NDArray[np.float32], mask: NDArray[np.bool_], voxel_size: Triple) -> CheckResult:
        """Adjacent-slice SSIM; see :class:`volgen.core.check.Check`."""
        ssim = curves(lambda axis: self._curve(unit, mask, axis))
        sharp = curves(lambda axis: spikes(1.0 - ssim[axis]))
        values = {
            "adjacent_ssim_mean": triple(lambda axis: summary(ssim[axis], np.mean)),
            "adjacent_ssim_sd": triple(lambda axis: summary(ssim[axis], np.std)),
            "adjacent_ssim_min": triple(lambda axis: summary(ssim[axis], np.min)),
            "adjacent_ssim_spike": triple(lambda axis: summary(sharp[axis], np.max)),
        }
        return CheckResult(values, {"adjacent_ssim": ssim, "adjacent_ssim_spike": sharp})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """As measured."""
        return dict(values)

    def _curve(self, unit: NDArray[np.float32], mask: NDArray[np.bool_], axis: int) -> Curve:
        inside = pair_mask(mask, axis)
        compared = large(inside.sum(axis=(1, 2)), self.smallest_share)
        curve = np.full(len(inside), np.nan)
        if not mask.any():
            return curve
        # Slices are cropped to the head and the reach of a window around it: at 256^3 half of the work is air.
        crop = tuple(_reach(mask, other, unit.shape[other]) for other in range(3) if other != axis)
        slices, inside = np.moveaxis(unit, axis, 0)[:, *crop], inside[:, *crop]
        window = min(WINDOW, *(size - 1 + size % 2 for size in slices.shape[1:]))  # odd, and no wider than a tiny volume
        for z in np.flatnonzero(compared):
            _, local = structural_similarity(slices[z], slices[z + 1], win_size=window, data_range=1.0, full=True)
            curve[z] = local[inside[z]].mean(dtype=np.float64)
        return curve


def _reach(mask: NDArray[np.bool_], axis: int, size: int) -> slice:
    ends = extent(mask, axis)
    assert ends is not None
    return slice(max(ends[0] - WINDOW, 0), min(ends[1] + WINDOW + 1, size))
