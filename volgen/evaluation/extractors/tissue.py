"""What tissue is like: contrast of grey and white matter, the border between them, noise and texture of white matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.check import Check
from volgen.evaluation.extractors._shared import digest
from volgen.evaluation.measure import checks_of
from volgen.evaluation.specimen import Specimen
from volgen.evaluation.two_cohorts import Kept, Quantity

CHECKS = ("tissues", "white_matter")


class Config(BaseConfig):
    """Numbers of the checks ``tissues`` and ``white_matter`` of ``volgen report`` that hold for a whole volume."""

    kind: Literal["tissue"] = "tissue"
    label: ClassVar[str] = "tissue"
    distances: ClassVar[bool] = False
    standardise: ClassVar[bool] = True

    def quantities(self) -> tuple[Quantity, ...]:
        """One for each number of the checks."""
        return tuple(Quantity(metric.name, metric.label) for check in self._checks() for metric in check.metrics)

    def declared(self) -> Mapping[str, str]:
        """Name, checksum, layer and preprocessing."""
        return {
            "name": "checks of volumes", "sha256": digest(CHECKS), "layer": ", ".join(CHECKS),
            "preprocessing": "own robust window, inside the head",
        }  # fmt: skip

    def extract(self, specimen: Specimen) -> Kept:
        """Means over the axes."""
        values = {name: triple for check in self._checks() for name, triple in check.measure(specimen.scan).values.items()}
        return {"": np.nan_to_num([float(np.mean(values[column.name])) for column in self.quantities()])}

    @staticmethod
    def _checks() -> list[Check]:
        return checks_of([{"kind": kind} for kind in CHECKS], __name__)
