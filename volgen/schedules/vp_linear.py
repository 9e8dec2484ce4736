"""The linear-beta grid of DDPM (Ho et al. 2020), written in sigma. Shibata et al. 2024 train one network for each of its points."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, PositiveFloat

from volgen.core.config import Config as BaseConfig
from volgen.core.noise import choose, sigma_of_alpha_bar


class Config(BaseConfig):
    """Grid sigma_t = sqrt((1 - abar_t) / abar_t) with abar_t the product of 1 - beta_s and beta linear in s.

    The end points are those of the 1000-step schedule, scaled by 1000 / ``points``, so that every T reaches the same final noise.
    """

    kind: Literal["vp_linear"] = "vp_linear"
    points: int = Field(default=1000, ge=2)
    """Number of timesteps, T."""
    beta_start: PositiveFloat = 1e-4
    """First beta of the 1000-step schedule."""
    beta_end: PositiveFloat = 0.02
    """Last beta of the 1000-step schedule."""

    def grid(self, steps: int | None = None) -> list[float]:
        """Descending noise levels; ``steps`` chooses that many of them, both ends kept."""
        scale = 1000.0 / self.points
        betas = np.clip(np.linspace(self.beta_start, self.beta_end, self.points) * scale, 0.0, 0.999)
        alpha_bar = np.cumprod(1.0 - betas)
        return choose([sigma_of_alpha_bar(float(value)) for value in alpha_bar[::-1]], steps)
