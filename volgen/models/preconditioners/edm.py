"""EDM preconditioning (Karras et al. 2022, table 1): the exact denoiser of N(0, sigma_data^2) is the skip path."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor

from volgen.models.preconditioners._scalar import Coefficients, ScalarConfig


class Config(ScalarConfig):
    """c_skip = d^2 / (s^2 + d^2), c_out = s d / sqrt(s^2 + d^2), c_in = 1 / sqrt(s^2 + d^2) with d = ``sigma_data``."""

    kind: Literal["edm"] = "edm"
    sigma_data: PositiveFloat = 0.5
    """Standard deviation of the data in the model range."""

    @property
    def deviation(self) -> float:
        """The standard deviation ``sigma_data``."""
        return self.sigma_data

    def coefficients(self, sigma_B: Tensor) -> Coefficients:
        """The scalings of table 1."""
        d = self.sigma_data
        total = sigma_B**2 + d**2
        return Coefficients(d**2 / total, sigma_B * d / total.sqrt(), total.rsqrt())
