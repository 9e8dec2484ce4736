"""Slices in three planes, finer than whole volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from volgen.evaluation.extractors._shared import FeaturesConfig, digest, stacks
from volgen.evaluation.specimen import Specimen
from volgen.evaluation.two_cohorts import Kept
from volgen.images.blocks import block_means, edge_for

SHARES = (0.35, 0.5, 0.65)
LARGEST_EDGE = 128


class Config(FeaturesConfig):
    """Three slices across each axis, at 35, 50 and 65 % of the head, with at most 128 pixels along an edge."""

    kind: Literal["planes"] = "planes"
    label: ClassVar[str] = "slices"

    def declared(self) -> Mapping[str, str]:
        """Name, checksum, layer and preprocessing."""
        return {
            "name": "principal components of slices", "sha256": digest(SHARES, LARGEST_EDGE),
            "layer": "up to 24 components of three slices across one axis, total variance 1",
            "preprocessing": "own robust window to [0, 1], slices at 35, 50 and 65 % of the head, at most 128 pixels along an edge",
        }  # fmt: skip

    def extract(self, specimen: Specimen) -> Kept:
        """The slices, by axis."""
        found = {}
        for label, _, images, _ in stacks(specimen.scan, SHARES):
            edge = edge_for(images.shape[1:], LARGEST_EDGE)
            found[label] = block_means(images, (1, edge, edge))
        return found
