"""Prediction of the noise (Ho et al. 2020, equation 11): D = y - s F."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from volgen.models.preconditioners._scalar import Coefficients, ScalarConfig


class Config(ScalarConfig):
    """c_skip = 1, c_out = -s, c_in = 1 / sqrt(1 + s^2): the network sees the variance-preserving sample and returns its noise."""

    kind: Literal["epsilon"] = "epsilon"

    def coefficients(self, sigma_B: Tensor) -> Coefficients:
        """x0 = y - s eps."""
        return Coefficients(torch.ones_like(sigma_B), -sigma_B, (1 + sigma_B**2).rsqrt())
