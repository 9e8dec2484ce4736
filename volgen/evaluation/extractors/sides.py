"""What of a volume changes when left and right change sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from scipy import ndimage

from volgen.evaluation.extractors._shared import FeaturesConfig, digest
from volgen.evaluation.specimen import Specimen
from volgen.evaluation.two_cohorts import Kept

SMOOTH = 1.0


class Config(FeaturesConfig):
    """Half the difference of the coarse volume, smoothed, and its mirror image about the middle of the head."""

    kind: Literal["sides"] = "sides"
    label: ClassVar[str] = "left against right"

    def declared(self) -> Mapping[str, str]:
        """Name, checksum, layer and preprocessing."""
        return {
            "name": "principal components of left minus right", "sha256": digest(SMOOTH), "layer": "up to 24 components, total variance 1",
            "preprocessing": "as whole, Gaussian of one coarse voxel, head moved to the middle from left to right, minus its mirror image",
        }  # fmt: skip

    def extract(self, specimen: Specimen) -> Kept:
        """The odd part of the coarse volume."""
        smooth = ndimage.gaussian_filter(specimen.coarse, SMOOTH)
        along = np.flatnonzero(specimen.coarse_head.any(axis=(1, 2)))
        off = (along[0] + along[-1]) / 2 - (smooth.shape[0] - 1) / 2 if along.size else 0.0
        middle = ndimage.shift(smooth, (-off, 0.0, 0.0), order=1)
        return {"": ((middle - middle[::-1]) / 2).astype(np.float32)[: middle.shape[0] // 2]}
