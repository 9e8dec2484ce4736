"""How smooth white matter is, which every other tissue is folded around."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat
from scipy import ndimage
from skimage.filters import threshold_otsu

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import HeadScan
from volgen.evaluation.slices import triple
from volgen.evaluation.tissue import Image, Mask, Tissue

SMALLEST = 1e-6
ERODED_MM = 2.0
FEWEST = 64
BINS = 256
SECOND = np.sqrt(6.0)  # of the sum of squares of the weights 1, -2, 1


class Config(BaseConfig):
    """Deep white matter: brighter than Otsu's threshold inside the head, 2 mm from anything darker, 10 mm from the outside.

    ``white_noise`` is the standard deviation of single voxels along an axis, by second differences divided by sqrt(6), and
    ``white_texture`` that of the brightness on blocks of 2 mm freed of what changes over more than 2 blocks; both over the difference
    between bright and dark tissue.
    """

    kind: Literal["white_matter"] = "white_matter"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("white_noise", "noise of single voxels in white matter, over the contrast of tissues", "has white matter smoother than in "
               "real volumes (blurred)", "has noisy white matter", "log", brain=True),
        Metric("white_texture", "texture of white matter, over the contrast of tissues", "", "has mottled white matter", "log",
               transfer=0.28, whole=True, brain=True),
    )  # fmt: skip

    pixel: PositiveFloat = 2.0
    """The volume is averaged over blocks of at most this edge, in mm: voxels that are larger are taken as they are."""
    smooth: float = Field(default=1.2, gt=0, le=8)
    """Standard deviation, in blocks, of the window over which white matter is compared with itself."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Second differences and texture; see :class:`volgen.evaluation.check.Check`."""
        if scan.ends[0] is None:
            return CheckResult({metric.name: (float("nan"),) * 3 for metric in self.metrics})
        tissue = scan.tissue(self.pixel)
        white, apart = _white(tissue)
        weight = white.astype(np.float32)
        rest = (tissue.brightness - tissue.near(tissue.brightness, self.smooth * float(np.mean(tissue.edges)), weight))[white]
        texture = float(rest.std()) / apart
        fine, inside = scan.unit[scan.box], scan.in_voxels(white, tissue.factors)
        level = apart * float(fine[inside].mean()) / max(float(tissue.brightness[white].mean()), SMALLEST)
        noise = triple(lambda axis: _second_difference(fine, inside, axis) / max(level, SMALLEST))
        return CheckResult({"white_noise": noise, "white_texture": (texture,) * 3})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The values as they were measured."""
        return dict(values)


def _white(tissue: Tissue) -> tuple[Mask, float]:
    """Deep white matter, and how much brighter the bright part of the core is than the dark one."""
    core = tissue.brightness[tissue.core]
    low, high = np.percentile(core, (1, 99))
    threshold = float(threshold_otsu(np.clip(core, low, high), BINS)) if high > low else float(low)
    bright = core > threshold
    apart = float(core[bright].mean() - core[~bright].mean()) if 0 < bright.mean() < 1 else 0.0
    white = (tissue.brightness > threshold) & tissue.mask
    steps = max(1, round(ERODED_MM / float(np.mean(tissue.edges))))
    for found in (ndimage.binary_erosion(white, iterations=steps) & tissue.deep, white & tissue.deep, white, tissue.mask):
        if np.count_nonzero(found) >= FEWEST:
            break
    return found, max(apart, SMALLEST)


def _second_difference(values: Image, inside: Mask, axis: int) -> float:
    v, m = np.moveaxis(values, axis, 0), np.moveaxis(inside, axis, 0)
    three = m[:-2] & m[1:-1] & m[2:]
    rest = (v[:-2] - 2 * v[1:-1] + v[2:])[three]
    return float(np.sqrt(np.mean(rest.astype(np.float64) ** 2)) / SECOND) if rest.size else 0.0
