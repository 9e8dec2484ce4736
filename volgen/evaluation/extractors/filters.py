"""Features of slices in three planes (2.5D) by a fixed bank of filters: no weights, nothing to download."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volgen.evaluation.extractors._shared import FeaturesConfig, digest, stacks
from volgen.evaluation.specimen import Specimen
from volgen.evaluation.two_cohorts import Kept

SHARES = tuple(round(0.2 + 0.05 * step, 2) for step in range(13))
SCALES_MM = (1.0, 2.0, 4.0)
ORDERS = ((1, 0), (0, 1), (2, 0), (0, 2), (1, 1))
"""Derivatives of a Gaussian along rows and columns."""
SMALLEST = 1e-6


class Config(FeaturesConfig):
    """Derivatives of Gaussians of 1, 2 and 4 mm on 13 slices across each axis; 90 numbers.

    Of each response the log mean size inside the head, and how heavy its tails are. Brightness is divided by its mean inside the head.
    """

    kind: Literal["filters"] = "filters"
    label: ClassVar[str] = "2.5D features"
    standardise: ClassVar[bool] = True

    def declared(self) -> Mapping[str, str]:
        """Name, checksum, layer and preprocessing."""
        return {
            "name": "bank of Gaussian derivatives", "sha256": digest(SHARES, SCALES_MM, ORDERS),
            "layer": "log mean size and weight of tails of 15 responses in 3 planes, over their spread in people, up to 24 components",
            "preprocessing": "own robust window, over the mean inside the head, 13 slices from 20 to 80 % of the head, full resolution",
        }  # fmt: skip

    def extract(self, specimen: Specimen) -> Kept:
        """90 numbers; zeros without a head."""
        scan = specimen.scan
        level = float(scan.unit[scan.mask].mean()) if scan.mask.any() else 0.0
        if level <= SMALLEST:
            return {"": np.zeros(3 * len(SCALES_MM) * len(ORDERS) * 2)}
        numbers: list[float] = []
        for _, axis, images, inside in stacks(scan, SHARES):
            pixel = [edge for other, edge in enumerate(scan.voxel_size) if other != axis]
            numbers += _responses(images / np.float32(level), inside, pixel)
        return {"": np.array(numbers)}


def _responses(images: NDArray[np.float32], inside: NDArray[np.bool_], pixel: list[float]) -> Iterator[float]:
    for scale in SCALES_MM:
        sigma = (0.0, *(max(scale / edge, 0.5) for edge in pixel))
        for order in ORDERS:
            response = np.abs(ndimage.gaussian_filter(images, sigma, order=(0, *order), mode="nearest"))[inside].astype(np.float64)
            mean = max(float(response.mean()), SMALLEST)
            yield float(np.log(mean))
            yield float(np.log(max(float((response**2).mean()), SMALLEST**2) / mean**2))
