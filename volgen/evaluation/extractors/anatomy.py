"""What a segmenter finds in a volume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from volgen.core.config import Config as BaseConfig
from volgen.core.registry import union
from volgen.evaluation.specimen import Specimen
from volgen.evaluation.two_cohorts import Kept, Quantity

if TYPE_CHECKING:
    AnySegmenter = Any
else:
    AnySegmenter = union("volgen.evaluation.segmenters")

WHOLE = ("unknown", "confidence", "litres")
"""Numbers of a whole volume; the shares of structures follow them."""


class Config(BaseConfig):
    """Share that is unknown, confidence, volume of all structures together, and the share that each has of it."""

    kind: Literal["anatomy"] = "anatomy"
    label: ClassVar[str] = "anatomy"
    distances: ClassVar[bool] = False
    standardise: ClassVar[bool] = True

    segmenter: AnySegmenter
    """What segments a volume."""

    def quantities(self) -> tuple[Quantity, ...]:
        """Three of the whole volume, and one for each structure."""
        return (
            Quantity("unknown", "Share of the head that is no structure"), Quantity("confidence", "Probability of the likeliest class"),
            Quantity("litres", "Volume of all structures", "l"),
            *(Quantity(f"share {name}", f"Share of {name}") for name in self.segmenter.structures()),
        )  # fmt: skip

    def declared(self) -> Mapping[str, str]:
        """What the segmenter says."""
        declared: Mapping[str, str] = self.segmenter.declared()
        return declared

    def extract(self, specimen: Specimen) -> Kept:
        """The numbers; NaN for what the segmenter does not say."""
        found = self.segmenter.segment(specimen)
        return {"": np.array([found.unknown, found.confidence, found.millilitres.sum() / 1000.0, *found.shares])}
