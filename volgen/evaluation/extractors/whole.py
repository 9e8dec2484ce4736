"""Whole volumes, coarsely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from volgen.evaluation.extractors._shared import FeaturesConfig, digest
from volgen.evaluation.specimen import COARSE_EDGE, Specimen
from volgen.evaluation.two_cohorts import Kept


class Config(FeaturesConfig):
    """Means over cubes of voxels until no edge has more than 64, in [0, 1]."""

    kind: Literal["whole"] = "whole"
    label: ClassVar[str] = "whole volumes"

    def declared(self) -> Mapping[str, str]:
        """Name, checksum, layer and preprocessing."""
        return {
            "name": "principal components of voxels", "sha256": digest(COARSE_EDGE), "layer": "up to 24 components, total variance 1",
            "preprocessing": "own robust window to [0, 1], means over cubes until no edge exceeds 64 voxels",
        }  # fmt: skip

    def extract(self, specimen: Specimen) -> Kept:
        """The coarse volume."""
        return {"": specimen.coarse.astype(np.float32)}
