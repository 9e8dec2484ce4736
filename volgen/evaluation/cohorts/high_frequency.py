"""How much fine detail there is."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import AXES
from volgen.evaluation.cohort_measure import Compared, Goal, Target, VolumeGroup
from volgen.evaluation.scan import HeadScan
from volgen.evaluation.spectrum import high_frequency_energy

BAND = (0.7, 1.4)


class Config(BaseConfig):
    """The energy above a quarter cycle per voxel over that of real volumes. Target: 0.7 to 1.4."""

    kind: Literal["high_frequency"] = "high_frequency"
    place: ClassVar[int] = 4
    goals: ClassVar[tuple[Goal, ...]] = (
        Goal("high-frequency ratio", "Fine detail, ratio to real", fewest=1, missed="fine detail is lost or noise was added"),
    )

    def compare(self, generated: VolumeGroup, validation: VolumeGroup, train: VolumeGroup) -> Compared:
        """``ratio_per_axis`` and its mean, ``ratio``; real volumes are validation and training people together."""
        ours = _energies(generated).mean(axis=0)
        theirs = np.concatenate([_energies(validation), _energies(train)]).mean(axis=0)
        ratios = {axis: float(ours[i]) / max(float(theirs[i]), 1e-12) for i, axis in enumerate(AXES)}
        ratio = float(np.mean(list(ratios.values())))
        return Compared({"ratio": ratio, "ratio_per_axis": ratios}, [Target("high-frequency ratio", ratio, *BAND)])


def _energies(group: VolumeGroup) -> NDArray[np.float64]:
    """[volumes, 3], per array axis."""
    scans = [HeadScan(volume, mask, (1.0, 1.0, 1.0)) for volume, mask in zip(group.volumes, group.masks, strict=True)]
    return np.array([[high_frequency_energy(scan, axis) for axis in range(3)] for scan in scans])
