"""Velocity prediction (Salimans & Ho 2022, section 4): v = alpha eps - sigma_vp x0 of the variance-preserving process."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from volgen.models.preconditioners._scalar import Coefficients, ScalarConfig


class Config(ScalarConfig):
    """c_skip = 1 / (1 + s^2), c_out = -s / sqrt(1 + s^2), c_in = 1 / sqrt(1 + s^2).

    With alpha = 1 / sqrt(1 + s^2) and sigma_vp = s alpha, x0 = alpha (alpha y) - sigma_vp v.
    """

    kind: Literal["v"] = "v"

    @property
    def deviation(self) -> float:
        """1: the skip path is the denoiser of N(0, 1)."""
        return 1.0

    def coefficients(self, sigma_B: Tensor) -> Coefficients:
        """x0 = alpha^2 y - s alpha v."""
        alpha = (1 + sigma_B**2).rsqrt()
        return Coefficients(alpha**2, -sigma_B * alpha, alpha)
