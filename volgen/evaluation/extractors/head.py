"""How large the head is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.extractors._shared import digest
from volgen.evaluation.specimen import Specimen
from volgen.evaluation.two_cohorts import Kept, Quantity


class Config(BaseConfig):
    """The volume of the head mask, in litres."""

    kind: Literal["head"] = "head"
    label: ClassVar[str] = "size of the head"
    distances: ClassVar[bool] = False
    standardise: ClassVar[bool] = True

    def quantities(self) -> tuple[Quantity, ...]:
        """The one number."""
        return (Quantity("litres", "Volume of the head", "l"),)

    def declared(self) -> Mapping[str, str]:
        """Name, checksum, layer and preprocessing."""
        return {"name": "head mask", "sha256": digest(), "layer": "number of voxels", "preprocessing": "own robust window"}

    def extract(self, specimen: Specimen) -> Kept:
        """The volume of the head."""
        return {"": np.array([np.count_nonzero(specimen.scan.mask) * float(np.prod(specimen.scan.voxel_size)) / 1e6])}
