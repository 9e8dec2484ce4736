"""From the faintest voxels to the brightest but for a few."""

from __future__ import annotations

from typing import Literal

from volgen.core.config import Config as BaseConfig
from volgen.images.intensity import IntensityMap
from volgen.images.volume import Volume


class Config(BaseConfig):
    """A window from the 0.1st percentile of all voxels to the 99.8th of the foreground, the voxels above the mean."""

    kind: Literal["robust"] = "robust"

    def of(self, scan: Volume, stored: Volume) -> IntensityMap:
        """The window of a scan as it is stored.

        Raises:
            ValueError: it is constant.
        """
        return IntensityMap.robust(stored.voxels)
