"""The linear-beta grid of DDPM (Ho et al. 2020), written in sigma. Shibata et al. 2024 train one network for each of its points."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from volgen.core.limits import MAX_POINTS
from volgen.core.noise import choose, sigma_of_alpha_bar
from volgen.sampling.schedules._shared import ScheduleConfig

STEPS = 1000
"""Timesteps of the schedule in the paper."""


class Config(ScheduleConfig):
    """Grid sigma_t = sqrt((1 - abar_t) / abar_t) with abar_t the product of 1 - beta_s over s <= t and beta linear in s, s = 1 ... 1000.

    T = ``points`` noise levels at evenly spaced t from 1 to 1000; log abar is linear between whole t. So every T has the same lowest
    and highest noise, and T = 1000 is the paper's table.
    """

    kind: Literal["vp_linear"] = "vp_linear"
    points: int = Field(default=1000, ge=2, le=MAX_POINTS)
    """Number of timesteps, T."""
    beta_start: float = Field(default=1e-4, gt=0.0, le=0.02)
    """First beta of the 1000-step schedule."""
    beta_end: float = Field(default=0.02, gt=0.0, le=0.04)
    """Last beta of the 1000-step schedule."""

    def grid(self, steps: int | None = None) -> list[float]:
        """Descending noise levels; ``steps`` chooses that many of them, both ends kept."""
        log_alpha_bar = np.cumsum(np.log1p(-np.linspace(self.beta_start, self.beta_end, STEPS)))
        times = np.linspace(1.0, STEPS, self.points)
        log_points = np.interp(times, np.arange(1, STEPS + 1), log_alpha_bar)
        return choose([sigma_of_alpha_bar(math.exp(value)) for value in log_points[::-1]], steps)
