"""How much fine detail a volume has along each axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import AXES
from volgen.evaluation.extractors._shared import digest
from volgen.evaluation.specimen import Specimen
from volgen.evaluation.spectrum import high_frequency_energy
from volgen.evaluation.two_cohorts import Kept, Quantity


class Config(BaseConfig):
    """The logarithm of the share of the energy above a quarter cycle per voxel, along each axis, at full resolution."""

    kind: Literal["fine_detail"] = "fine_detail"
    label: ClassVar[str] = "fine detail"
    distances: ClassVar[bool] = False
    standardise: ClassVar[bool] = True

    def quantities(self) -> tuple[Quantity, ...]:
        """One for each axis."""
        return tuple(Quantity(axis, f"Energy above a quarter cycle per voxel along {axis}, logarithm") for axis in AXES)

    def declared(self) -> Mapping[str, str]:
        """Name, checksum, layer and preprocessing."""
        return {
            "name": "spectrum", "sha256": digest(0.25), "layer": "log share above 0.25 cycles per voxel",
            "preprocessing": "own robust window, inside the head",
        }  # fmt: skip

    def extract(self, specimen: Specimen) -> Kept:
        """Three numbers, one for each axis."""
        return {"": np.log([max(high_frequency_energy(specimen.scan, axis), 1e-9) for axis in range(3)])}
