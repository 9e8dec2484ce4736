"""How many experts there are, what each starts from and in which order they are trained."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from volgen.core.config import Config


class ExpertsConfig(Config):
    """A bank of K denoisers that share the sigma axis. K = 1 is the usual single network, K = T one network per timestep."""

    count: PositiveInt = 1
    """K, at most the number of points of the schedule."""
    order: Literal["high_to_low", "low_to_high"] = "high_to_low"
    """Order of training along the noise axis."""
    warm_start: Literal["neighbour", "shared", "none"] = "neighbour"
    """Weights that an expert starts from: the expert trained before it, the shared network, or random ones."""
    shared_steps: NonNegativeInt = 0
    """Steps of training one network on all noise levels first (Balaji et al. 2022, eDiff-I); the first expert starts from it."""
    on_grid: bool = True
    """Train at the schedule's points only (the noise levels that sampling visits), or anywhere inside each span (log-uniform)."""
