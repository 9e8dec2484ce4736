"""Metric 9: seams at the borders of blocks (patches, chunks, wavelet tiles) that a generator puts together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import CheckResult, Metric, Triple
from volgen.evaluation.scan import Curve, HeadScan
from volgen.evaluation.slices import spikes, triple


class Config(BaseConfig):
    """Mean absolute difference across block borders over that of the 4 slice pairs on either side.

    Borders are those of a grid of blocks that starts at the first voxel. Of the means over all borders of a block size the largest counts.
    """

    kind: Literal["seam"] = "seam"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("seam_score", "change across block borders over that elsewhere", "", "has seams at block borders along this axis", "log",
               transfer=0.24),
    )  # fmt: skip

    blocks: tuple[PositiveInt, ...] = (8, 16, 32, 64, 128)
    """Block sizes in voxels."""
    smallest_share: float = Field(default=0.35, gt=0, lt=1)
    """Slices that show less of the head than this share of the largest slice are left out."""

    def measure(self, scan: HeadScan) -> CheckResult:
        """Seam score; see :class:`volgen.evaluation.check.Check`."""
        return CheckResult({"seam_score": triple(lambda axis: self._score(spikes(scan.pair_curve(axis, self.smallest_share))))})

    def relate(self, values: Mapping[str, Triple], means: Mapping[str, Triple]) -> dict[str, Triple]:
        """The values as they were measured."""
        return dict(values)

    def _score(self, spike: Curve) -> float:
        """1 if no border lies in the head; NaN without a head."""
        if not np.isfinite(spike).any():
            return float("nan")
        scores = []
        for block in self.blocks:
            across = spike[block - 1 :: block]
            known = across[np.isfinite(across)]
            if known.size:
                scores.append(float(np.exp(np.log(np.maximum(known, 1e-6)).mean())))
        return max(scores, default=1.0)
