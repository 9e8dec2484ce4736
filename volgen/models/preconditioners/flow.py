"""Rectified flow (Liu et al. 2022; Lipman et al. 2022): the network predicts u = z - x0 on the line x_t = (1 - t) x0 + t z."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from volgen.core.noise import flow_time_of_sigma
from volgen.models.preconditioners._scalar import Coefficients, ScalarConfig


class Config(ScalarConfig):
    """c_skip = 1 - t, c_out = -t, c_in = 1 - t with t = s / (1 + s): x0 = x_t - t u and x_t = (1 - t) y."""

    kind: Literal["flow"] = "flow"

    def coefficients(self, sigma_B: Tensor) -> Coefficients:
        """x0 = (1 - t) y - t u."""
        time = flow_time_of_sigma(sigma_B)
        return Coefficients(1 - time, -time, 1 - time)
