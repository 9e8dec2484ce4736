"""Heun's method on the probability-flow ODE (Karras et al. 2022, algorithm 1)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Denoiser, Step


class Heun:
    """Second-order solver of dx/dsigma = (x - D(x, sigma)) / sigma: the trapezoidal rule with an Euler predictor.

    It evaluates the denoiser at both ends of a step, never between, so experts that exist only on a grid suffice. At sigma' = 0
    the slope has no value (0/0), so the last step is Euler's, as in the paper.
    """

    order = 2
    stochastic = False

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        """The sample at ``step.sigma_next``; nothing is remembered."""
        slope = (x_BCXYZ - denoise(x_BCXYZ, x_BCXYZ.new_full(x_BCXYZ.shape[:1], step.sigma))) / step.sigma
        width = step.sigma_next - step.sigma
        predicted = x_BCXYZ + width * slope
        if step.sigma_next == 0.0:
            return predicted, None
        slope_next = (predicted - denoise(predicted, predicted.new_full(predicted.shape[:1], step.sigma_next))) / step.sigma_next
        return x_BCXYZ + width * 0.5 * (slope + slope_next), None


class Config(BaseConfig):
    """Heun steps: two network evaluations each but the last, by two neighbouring experts."""

    kind: Literal["heun"] = "heun"

    def build(self) -> Heun:
        """The solver."""
        return Heun()
