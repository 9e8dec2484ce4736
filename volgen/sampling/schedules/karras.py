"""The EDM grid: uniform in sigma^(1/rho) (Karras et al. 2022, equation 5)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from volgen.core.limits import MAX_POINTS
from volgen.core.noise import choose
from volgen.sampling.schedules._shared import ScheduleConfig


class Config(ScheduleConfig):
    """Grid of ``points`` noise levels from ``sigma_max`` down to ``sigma_min``."""

    kind: Literal["karras"] = "karras"
    sigma_min: float = Field(default=0.02, ge=1e-6)
    """Lowest noise level (data in [-1, 1])."""
    sigma_max: float = Field(default=80.0, gt=0.0, le=1e6)
    """Highest noise level; must drown the data, so well above its largest standard deviation."""
    points: int = Field(default=32, ge=2, le=MAX_POINTS)
    """Number of noise levels, T."""
    rho: float = Field(default=7.0, ge=0.1, le=1000.0)
    """Larger values put more points at low noise; 7 is the paper's choice."""

    def grid(self, steps: int | None = None) -> list[float]:
        """Descending noise levels; ``steps`` chooses that many of them, both ends kept."""
        ramp = np.linspace(self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho), self.points)
        return choose([float(value) for value in ramp**self.rho], steps)
