"""Heun's method on the probability-flow ODE (Karras et al. 2022, algorithm 1)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Denoiser, Sampler, Step


class Heun(Sampler):
    """Second-order solver of dx/dsigma = (x - D(x, sigma)) / sigma: the trapezoidal rule with an Euler predictor.

    A step ends with the prediction, and the next one, whose network the correction needs too, corrects it first:

        x = x_before + h_before/2 (d_before + d(predicted, sigma)),   predicted' = x + h d(x, sigma),   d(x, sigma) = (x - D) / sigma.

    So every step asks about one noise level only, its own, and each expert is needed once; the volumes are those of the paper's
    order. Levels between grid points are never asked for, so experts that exist only on a grid suffice. At sigma' = 0 the slope has
    no value (0/0), so the last step is Euler's, as in the paper.
    """

    order = 2
    stochastic = False
    remembers = (Tensor, float)
    evaluations = (1, 2)

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        """The prediction at ``step.sigma_next``; remembers x + h/2 d of this step, and h/2."""

        def slope(at_BCXYZ: Tensor) -> Tensor:
            return (at_BCXYZ - denoise(at_BCXYZ, at_BCXYZ.new_full(at_BCXYZ.shape[:1], step.sigma))) / step.sigma

        x = x_BCXYZ
        if memory is not None:
            halfway, half_width = memory
            x = halfway + half_width * slope(x_BCXYZ)
        half_width = 0.5 * (step.sigma_next - step.sigma)
        half = half_width * slope(x)
        return x + 2.0 * half, ((x + half, half_width) if step.sigma_next > 0.0 else None)


class Config(BaseConfig):
    """Heun steps: two network evaluations each but the first."""

    kind: Literal["heun"] = "heun"

    def build(self) -> Heun:
        """Makes the solver."""
        return Heun()
