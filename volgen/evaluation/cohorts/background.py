"""How dark the air around the head is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.cohort_measure import Compared, Goal, Target, Unit, VolumeGroup
from volgen.evaluation.mask import dilated

MARGIN_MM = 4.0
LIMIT = 0.01


class Config(BaseConfig):
    """The mean value outside the union of all training heads, dilated by 4 mm. Target: below 0.01."""

    kind: Literal["background"] = "background"
    place: ClassVar[int] = 1
    goals: ClassVar[tuple[Goal, ...]] = (
        Goal("background", "Background level, share of the range", fewest=1, missed="the background is not clean"),
    )

    def compare(self, generated: VolumeGroup, validation: VolumeGroup, train: VolumeGroup) -> Compared:
        """``generated``, ``generated_max`` (of the worst volume) and ``real``: means in [0, 1]."""
        outside = ~dilated(train.union, train.voxel_size, MARGIN_MM)
        level = _mean_in(generated.volumes, outside)
        values = {
            "generated": level, "generated_max": max((_mean_in([v], outside) for v in generated.volumes), default=0.0),
            "real": _mean_in(validation.volumes, outside), "margin_mm": MARGIN_MM,
        }  # fmt: skip
        return Compared(values, [Target("background", level, None, LIMIT)])


def _mean_in(volumes: Sequence[Unit], mask: NDArray[np.bool_]) -> float:
    return float(np.mean([v[mask].mean(dtype=np.float64) for v in volumes])) if mask.any() else 0.0
