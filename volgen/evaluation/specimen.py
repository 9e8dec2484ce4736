"""One volume as extractors look at it: in [0, 1], with its head, at full size and on a coarse grid."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.mask import head_mask
from volgen.evaluation.measure import seen
from volgen.evaluation.scan import HeadScan, Triple
from volgen.images.blocks import block_means, edge_for

COARSE_EDGE = 64
Unit = NDArray[np.float32]


class Specimen:
    """A volume that is measured once and then let go.

    Attributes:
        name: what it is called: of a real scan its id in the store.
        scan: the volume [X, Y, Z] in [0, 1] (RAS+, by its own robust window), its head and its voxel size in mm.
        generated: whether it is one of the volumes that are judged.
    """

    def __init__(self, name: str, voxels: NDArray[Any], voxel_size: Triple, *, generated: bool = True) -> None:
        self.name, self.generated = name, generated
        unit, mask = seen(voxels)
        self.scan = HeadScan(unit, mask, voxel_size)

    @cached_property
    def coarse(self) -> Unit:
        """Means over cubes of voxels until no edge has more than 64."""
        return block_means(self.scan.unit, [edge_for(self.scan.unit.shape, COARSE_EDGE)] * 3)

    @cached_property
    def coarse_head(self) -> NDArray[np.bool_]:
        """The head in :attr:`coarse`."""
        return head_mask(self.coarse)
