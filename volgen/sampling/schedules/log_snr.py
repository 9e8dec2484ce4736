"""A grid uniform in log sigma, which is uniform in log-SNR: what multistep DPM-Solver++ assumes (Lu et al. 2022)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from volgen.core.limits import MAX_POINTS
from volgen.core.noise import choose
from volgen.sampling.schedules._shared import ScheduleConfig


class Config(ScheduleConfig):
    """Grid of ``points`` noise levels from ``sigma_max`` down to ``sigma_min``, geometrically spaced."""

    kind: Literal["log_snr"] = "log_snr"
    sigma_min: float = Field(default=0.02, ge=1e-6)
    """Lowest noise level (data in [-1, 1])."""
    sigma_max: float = Field(default=80.0, gt=0.0, le=1e6)
    """Highest noise level; must drown the data."""
    points: int = Field(default=32, ge=2, le=MAX_POINTS)
    """Number of noise levels, T."""

    def grid(self, steps: int | None = None) -> list[float]:
        """Descending noise levels; ``steps`` chooses that many of them, both ends kept."""
        return choose([float(value) for value in np.geomspace(self.sigma_max, self.sigma_min, self.points)], steps)
