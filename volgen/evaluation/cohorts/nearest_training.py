"""How near volumes come to training people, against how near unseen real people come to them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.cohort_measure import Compared, Goal, Target, VolumeGroup
from volgen.evaluation.cohorts._shared import deviation
from volgen.evaluation.likeness import standardised
from volgen.evaluation.ms_ssim import ms_ssim

CANDIDATES = 3
NAMES = {"correlation": "correlation", "ms_ssim": "MS-SSIM"}


class Config(BaseConfig):
    """Likeness to the training subject most like the volume. Target: the mean is at most one sd above that of unseen real people.

    It is the correlation inside the union of the training heads, and the MS-SSIM to the best of the 3 most correlated subjects.
    """

    kind: Literal["nearest_training"] = "nearest_training"
    place: ClassVar[int] = 5
    goals: ClassVar[tuple[Goal, ...]] = tuple(
        Goal(f"nearest training: {name}", f"Likeness to the nearest training person ({name})", fewest=5, copying=True,
             missed="volumes are closer to training people than unseen people are")
        for name in NAMES.values()
    )  # fmt: skip

    def compare(self, generated: VolumeGroup, validation: VolumeGroup, train: VolumeGroup) -> Compared:
        """``generated`` and ``real`` (validation people): mean, standard deviation and largest value of both likenesses."""
        ours, theirs = _nearest(generated, train), _nearest(validation, train)
        targets = [Target(f"nearest training: {name}", ours[key], None, theirs[key] + theirs[f"{key}_sd"]) for key, name in NAMES.items()]
        return Compared({"generated": ours, "real": theirs}, targets)


def _nearest(group: VolumeGroup, train: VolumeGroup) -> dict[str, Any]:
    correlation = standardised(group.volumes, train.union) @ standardised(train.volumes, train.union).T
    best = correlation.max(axis=1)
    candidates = np.argsort(correlation, axis=1)[:, ::-1][:, :CANDIDATES]
    similar = np.array([max(ms_ssim(group.pyramids[i], train.pyramids[j]) for j in row) for i, row in enumerate(candidates)])
    return {
        "correlation": float(best.mean()), "correlation_sd": deviation(best), "correlation_max": float(best.max()),
        "ms_ssim": float(similar.mean()), "ms_ssim_sd": deviation(similar), "ms_ssim_max": float(similar.max()),
    }  # fmt: skip
