"""Prediction of the clean volume: D = F. The usual choice at high noise; at low noise it must reproduce its input."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from volgen.models.preconditioners._scalar import Coefficients, ScalarConfig


class Config(ScalarConfig):
    """c_skip = 0, c_out = 1, c_in = 1 / sqrt(1 + s^2)."""

    kind: Literal["x0"] = "x0"

    def coefficients(self, sigma_B: Tensor) -> Coefficients:
        """The network's output is the estimate."""
        return Coefficients(torch.zeros_like(sigma_B), torch.ones_like(sigma_B), (1 + sigma_B**2).rsqrt())
