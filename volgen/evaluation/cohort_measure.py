"""What a measure of a whole cohort is: the groups of volumes that it compares, what it returns, and what its numbers are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.mask import head_mask
from volgen.evaluation.ms_ssim import Pyramid, pyramid
from volgen.evaluation.scan import Triple

Unit = NDArray[np.float32]


@dataclass(frozen=True)
class VolumeGroup:
    """One side of a comparison. What several measures need of its volumes is computed once, when it is first asked for.

    Attributes:
        volumes: [X, Y, Z] each, in [0, 1], RAS+, all on one grid.
        voxel_size: edges of a voxel in mm.
    """

    volumes: Sequence[Unit]
    voxel_size: Triple

    def __len__(self) -> int:
        return len(self.volumes)

    @cached_property
    def masks(self) -> list[NDArray[np.bool_]]:
        """The head in each volume."""
        return [head_mask(volume) for volume in self.volumes]

    @cached_property
    def union(self) -> NDArray[np.bool_]:
        """Where any volume of the group shows a head."""
        union: NDArray[np.bool_] = np.logical_or.reduce(self.masks)
        return union

    @cached_property
    def pyramids(self) -> list[Pyramid]:
        """Each volume, prepared for MS-SSIM."""
        return [pyramid(volume) for volume in self.volumes]

    @cached_property
    def rows(self) -> Unit:
        """[volumes, 1, voxels]: each volume as one image of many values."""
        return np.stack(self.volumes).reshape(len(self.volumes), 1, -1)


@dataclass(frozen=True)
class Goal:
    """What people are told of one number of a measure.

    Attributes:
        name: key of the number in ``targets`` of ``report.json``.
        label: what it is, in a few words for a table.
        fewest: generated volumes, and unseen real ones, from which on the number says something.
        missed: what it means that the number lies outside its band, as the end of a sentence.
        copying: whether it then means that volumes are copies of training people.
        shown: key of the number among the measure's values, where the number is shown without a band and nothing is judged by it.
        aim: what stands in place of a band then.
    """

    name: str
    label: str
    fewest: int = 1
    missed: str = ""
    copying: bool = False
    shown: str = ""
    aim: str = ""


@dataclass(frozen=True)
class Target:
    """A number and the band that it should lie in.

    Attributes:
        name: name of the :class:`Goal`.
        value: None where there are too few volumes to measure it.
        low: lower end of the band; None for an open one.
        high: upper end, likewise.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None

    @property
    def passed(self) -> bool | None:
        """Whether the number lies in its band; None where it could not be measured."""
        if self.value is None:
            return None
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)


@dataclass(frozen=True)
class Compared:
    """What a measure found.

    Attributes:
        values: JSON-able numbers, which ``report.json`` has under the measure's kind.
        targets: those that have a band, in the order of the measure's goals.
    """

    values: Mapping[str, Any]
    targets: Sequence[Target] = field(default_factory=tuple)


class CohortMeasure(Protocol):
    """What every file in ``volgen/evaluation/cohorts`` offers as ``Config``: parameters, and how two groups are compared.

    Attributes:
        kind: name of the measure, under which its values stand in ``report.json``.
        place: where it stands among the others; those of one place are sorted by kind.
        goals: its numbers that people are shown.
    """

    kind: str
    place: ClassVar[int]
    goals: ClassVar[tuple[Goal, ...]]

    def compare(self, generated: VolumeGroup, validation: VolumeGroup, train: VolumeGroup) -> Compared:
        """Compares generated volumes with those of real people.

        Args:
            generated: at least one volume.
            validation: people that the model has not seen; at least two.
            train: people that it was trained on; at least two.
        """
        ...
