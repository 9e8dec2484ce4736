"""How alike volumes are to each other: a model that draws one person again and again is found by no look at a single volume."""

from __future__ import annotations

from typing import ClassVar, Literal

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.cohort_measure import Compared, Goal, Target, VolumeGroup
from volgen.evaluation.ms_ssim import mean_over_pairs

DIFFERENCE = 0.08


class Config(BaseConfig):
    """The mean MS-SSIM over pairs of generated volumes, and over pairs of real ones; higher is less diverse. Target: within 0.08."""

    kind: Literal["ms_ssim"] = "ms_ssim"
    place: ClassVar[int] = 3
    goals: ClassVar[tuple[Goal, ...]] = (
        Goal("MS-SSIM difference", "Likeness of volumes to each other (MS-SSIM), minus real", fewest=8,
             missed="volumes are more alike, or less alike, than real people are"),
    )  # fmt: skip

    def compare(self, generated: VolumeGroup, validation: VolumeGroup, train: VolumeGroup) -> Compared:
        """``generated`` and ``real`` (validation people), None for fewer than two volumes; ``scales`` of it; their ``difference``."""
        ours, theirs = mean_over_pairs(generated.pyramids), mean_over_pairs(validation.pyramids)
        difference = None if ours is None or theirs is None else ours - theirs
        values = {"generated": ours, "real": theirs, "scales": len(train.pyramids[0].levels), "difference": difference}
        return Compared(values, [Target("MS-SSIM difference", difference, -DIFFERENCE, DIFFERENCE)])
