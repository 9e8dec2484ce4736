"""Frechet distance of single slices, axis by axis: volumes that were stacked from slices look right across one axis only."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import AXES
from volgen.evaluation.cohort_measure import Compared, Goal, Unit, VolumeGroup
from volgen.evaluation.frechet_ratio import frechet_ratio
from volgen.evaluation.slices import extent

SLICES = 9
CENTRAL = (0.2, 0.8)


class Config(BaseConfig):
    """The ratio of ``frechet`` over single slices, 9 along each axis; ``gap`` is the largest ratio over the smallest."""

    kind: Literal["frechet_planes"] = "frechet_planes"
    place: ClassVar[int] = 7
    goals: ClassVar[tuple[Goal, ...]] = ()

    def compare(self, generated: VolumeGroup, validation: VolumeGroup, train: VolumeGroup) -> Compared:
        """What :func:`volgen.evaluation.frechet_ratio.frechet_ratio` returns of slices from the central 60 % of training heads, by axis."""
        result: dict[str, Any] = {}
        for axis, label in enumerate(AXES):
            first, last = extent(train.union, axis) or (0, train.union.shape[axis] - 1)
            places = np.rint(first + np.linspace(*CENTRAL, SLICES) * (last - first)).astype(int)
            result[label] = frechet_ratio(*(_slices(group, axis, places) for group in (generated, validation, train)))
        ratios = [result[label]["ratio"] for label in AXES]
        return Compared({**result, "gap": max(ratios) / max(min(ratios), 1e-12)})


def _slices(group: VolumeGroup, axis: int, places: np.typing.NDArray[np.int_]) -> Unit:
    return np.stack([np.moveaxis(volume, axis, 0)[places].reshape(SLICES, -1) for volume in group.volumes])
