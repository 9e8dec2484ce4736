"""Scans are turned and shifted into the frame of a template, and keep their size."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from volgen.data.ingest.registrations._linear import LinearConfig, rigid, search
from volgen.images.volume import Volume


class Config(LinearConfig):
    """Six degrees of freedom: each scan keeps its size and shape."""

    kind: Literal["rigid"] = "rigid"

    def matrix(self, scan: Volume, template: Volume) -> NDArray[np.float64]:
        """Where the template's points are in a scan: 4 x 4, mm -> mm."""
        return search(scan, template, self, [rigid])
