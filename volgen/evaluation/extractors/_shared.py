"""What extractors share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import AXES
from volgen.evaluation.scan import HeadScan
from volgen.evaluation.two_cohorts import Quantity

Images = NDArray[np.float32]


class FeaturesConfig(BaseConfig):
    """Features of which no single number means anything: distances of cohorts are taken in them, in their own scale."""

    distances: ClassVar[bool] = True
    standardise: ClassVar[bool] = False

    def quantities(self) -> tuple[Quantity, ...]:
        """None that people know."""
        return ()


def digest(*constants: object) -> str:
    """SHA-256 of constants, where there are no weights."""
    return hashlib.sha256(repr(constants).encode()).hexdigest()


def places(scan: HeadScan, axis: int, shares: tuple[float, ...]) -> list[int]:
    """Slices at shares of the way from the first to the last slice of the head."""
    first, last = scan.ends[axis] or (0, scan.unit.shape[axis] - 1)
    return [round(first + share * (last - first)) for share in shares]


def stacks(scan: HeadScan, shares: tuple[float, ...]) -> Iterator[tuple[str, int, Images, NDArray[np.bool_]]]:
    """Name and number of each axis, and slices of the volume and of its head across it, [slices, rows, columns]."""
    for axis, label in enumerate(AXES):
        chosen = places(scan, axis, shares)
        images, inside = (np.moveaxis(np.take(array, chosen, axis=axis), axis, 0) for array in (scan.unit, scan.mask))
        yield label, axis, np.ascontiguousarray(images), np.ascontiguousarray(inside)
