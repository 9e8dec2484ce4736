"""The EDM grid: uniform in sigma^(1/rho) (Karras et al. 2022, equation 5)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, PositiveFloat

from volgen.core.config import Config as BaseConfig
from volgen.core.noise import choose


class Config(BaseConfig):
    """Grid of ``points`` noise levels from ``sigma_max`` down to ``sigma_min``."""

    kind: Literal["karras"] = "karras"
    sigma_min: PositiveFloat = 0.02
    """Lowest noise level (data in [-1, 1])."""
    sigma_max: PositiveFloat = 80.0
    """Highest noise level; must drown the data, so well above its largest standard deviation."""
    points: int = Field(default=32, ge=2)
    """Number of noise levels, T."""
    rho: PositiveFloat = 7.0
    """Larger values put more points at low noise; 7 is the paper's choice."""

    def grid(self, steps: int | None = None) -> list[float]:
        """Descending noise levels; ``steps`` chooses that many of them, both ends kept."""
        ramp = np.linspace(self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho), self.points)
        return choose([float(value) for value in ramp**self.rho], steps)
