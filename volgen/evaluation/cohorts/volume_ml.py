"""How large heads are."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.cohort_measure import Compared, Goal, Target, VolumeGroup
from volgen.evaluation.cohorts._shared import deviation

SDS = 3.0


class Config(BaseConfig):
    """The mean size of the head mask; ``z`` is that in standard deviations of real people. Target: within 3."""

    kind: Literal["volume_ml"] = "volume_ml"
    place: ClassVar[int] = 2
    goals: ClassVar[tuple[Goal, ...]] = (
        Goal("volume z", "Size of the head, sd from the real mean", fewest=5, missed="heads are too large or too small on average"),
    )

    def compare(self, generated: VolumeGroup, validation: VolumeGroup, train: VolumeGroup) -> Compared:
        """``generated`` and ``real`` (validation and training people together) in millilitres, the standard deviation of each, ``z``."""
        ours, theirs = _millilitres(generated), np.concatenate([_millilitres(validation), _millilitres(train)])
        spread = float(theirs.std(ddof=1))
        z = float((ours.mean() - theirs.mean()) / max(spread, 1e-9))
        values = {
            "generated": float(ours.mean()), "generated_sd": deviation(ours), "real": float(theirs.mean()), "real_sd": spread, "z": z,
        }  # fmt: skip
        return Compared(values, [Target("volume z", z, -SDS, SDS)])


def _millilitres(group: VolumeGroup) -> NDArray[np.float64]:
    return np.array([mask.sum() for mask in group.masks]) * (float(np.prod(group.voxel_size)) / 1000.0)
