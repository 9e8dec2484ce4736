"""Scans are turned, shifted, scaled and sheared into the frame of a template, so that heads have one size."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from volgen.data.ingest.registrations._linear import LinearConfig, affine, rigid, search
from volgen.images.volume import Volume


class Config(LinearConfig):
    """Twelve degrees of freedom: heads of all sizes become alike."""

    kind: Literal["affine"] = "affine"

    def matrix(self, scan: Volume, template: Volume) -> NDArray[np.float64]:
        """Where the template's points are in a scan: 4 x 4, mm -> mm."""
        return search(scan, template, self, [rigid, affine])
