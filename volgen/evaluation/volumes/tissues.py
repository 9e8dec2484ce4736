"""Whether there are two tissues, grey and white matter, with a border between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import HeadScan

SMALLEST = 1e-6


class Config(BaseConfig):
    """Brightness in standard deviations of what is within some 8 mm, z, inside the head but for its rim.

    ``two_tissues`` is the share of the variance of z that two classes explain, split at 0: w (1 - w) (m1 - m0)^2 / var z (Otsu 1979),
    2 / pi for a normal distribution and 1 for two tissues without noise. ``border`` is the mean slope where z is near 0, between the
    tissues, over that where it is far from 0, inside of them: 1 for normal texture, whose slope has nothing to do with its value.
    ``border_sharpness`` is the former alone, in standard deviations per mm. None depends on contrast, shading or window.
    """

    kind: Literal["tissues"] = "tissues"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("two_tissues", "share of the contrast that two tissues explain", "has brightness of every degree in place of two tissues, "
               "grey and white matter", transfer=0.03, whole=True, brain=True),
        Metric("border", "slope at the border of grey and white matter over that inside", "has no border between grey and white matter: "
               "it changes as much inside of them (blotchy)", scale="log", transfer=0.12, whole=True, brain=True),
        Metric("border_sharpness", "slope at the border of grey and white matter", "has a soft border between grey and white matter "
               "(blurred)", scale="log", transfer=0.1, whole=True, brain=True),
    )  # fmt: skip

    pixel: PositiveFloat = 2.0
    """The volume is averaged over blocks of at most this edge, in mm: voxels that are larger are taken as they are."""
    near: float = Field(default=0.25, gt=0, lt=1)
    """Places at most this many standard deviations from 0 are at the border."""
    far: float = Field(default=0.8, gt=0, lt=3)
    """Places at least as far are inside a tissue."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Classes and slopes; see :class:`volgen.evaluation.check.Check`."""
        if scan.ends[0] is None:
            return CheckResult({metric.name: (float("nan"),) * 3 for metric in self.metrics})
        tissue = scan.tissue(self.pixel)
        z, spread = (values[tissue.core].astype(np.float64) for values in tissue.contrast)
        slope = np.sqrt((tissue.slopes[:, tissue.core] ** 2).sum(axis=0, dtype=np.float64))
        white = z > 0
        share = float(white.mean())
        apart = float(z[white].mean() - z[~white].mean()) if 0 < share < 1 else 0.0
        explained = share * (1 - share) * apart**2 / max(float(z.var()), SMALLEST)
        at, inside = np.abs(z) < self.near, np.abs(z) > self.far
        border = float(slope[at].mean()) / max(float(slope[inside].mean()), SMALLEST) if at.any() and inside.any() else 1.0
        sharpness = float((slope[at] / spread[at]).mean()) if at.any() else 0.0
        return CheckResult({"two_tissues": (explained,) * 3, "border": (border,) * 3, "border_sharpness": (sharpness,) * 3})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The values as they were measured."""
        return dict(values)
