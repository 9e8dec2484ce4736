"""Frechet distance of volumes, relative to that of real people among themselves."""

from __future__ import annotations

from typing import ClassVar, Literal

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.cohort_measure import Compared, Goal, VolumeGroup
from volgen.evaluation.frechet_ratio import frechet_ratio


class Config(BaseConfig):
    """Distance to the validation people in 24 principal components of the training people.

    ``floor`` is that of equally many training people whom the components have not seen, ``ratio`` the generated one over it (means over 5
    draws).
    """

    kind: Literal["frechet"] = "frechet"
    place: ClassVar[int] = 6
    # With fewer volumes than the 24 components plus one, a covariance has no inverse.
    goals: ClassVar[tuple[Goal, ...]] = (
        Goal("frechet ratio", "Frechet distance, ratio to that of real people", fewest=25, shown="ratio", aim="1: as real"),
    )

    def compare(self, generated: VolumeGroup, validation: VolumeGroup, train: VolumeGroup) -> Compared:
        """What :func:`volgen.evaluation.frechet_ratio.frechet_ratio` returns."""
        return Compared(frechet_ratio(generated.rows, validation.rows, train.rows))
