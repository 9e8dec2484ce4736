"""sigma is the only noise coordinate; this file is the one place where others are converted.

``y = x0 + sigma * z``. A variance-preserving timestep has ``x_t = sqrt(abar) * y``; a rectified-flow time has ``x_t = (1 - t) * y``.
"""

from __future__ import annotations

import math

from torch import Tensor


def sigma_of_alpha_bar(alpha_bar: float) -> float:
    """DDPM (Ho et al. 2020) cumulative product abar_t in (0, 1) -> sigma = sqrt((1 - abar) / abar)."""
    return math.sqrt((1.0 - alpha_bar) / alpha_bar)


def alpha_bar_of_sigma(sigma: float) -> float:
    """Inverse of :func:`sigma_of_alpha_bar`."""
    return 1.0 / (1.0 + sigma * sigma)


def flow_time_of_sigma(sigma: Tensor) -> Tensor:
    """Rectified-flow time t in [0, 1): x_t = (1 - t) x0 + t z, so sigma = t / (1 - t)."""
    return sigma / (1.0 + sigma)


def c_noise(sigma: Tensor) -> Tensor:
    """What a network is told of its noise level: log(sigma) / 4 (Karras et al. 2022, table 1), of order -1 ... 1."""
    return sigma.log() / 4


def choose(points: list[float], steps: int | None) -> list[float]:
    """``steps`` of a schedule's own points, evenly by index, both ends kept: experts exist only on the grid."""
    if steps is None or steps == len(points):
        return points
    if not 2 <= steps <= len(points):
        raise ValueError(f"{steps} steps cannot be chosen from a grid of {len(points)} points")
    return [points[round(index * (len(points) - 1) / (steps - 1))] for index in range(steps)]
