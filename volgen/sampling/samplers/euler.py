"""Euler's method on the probability-flow ODE (Karras et al. 2022, algorithm 1 without its correction)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Denoiser, Sampler, Step


class Euler(Sampler):
    """First-order solver of dx/dsigma = (x - D(x, sigma)) / sigma (Karras et al. 2022, equation 3); exact where experts jump.

    A step is x' = x + (sigma' - sigma) (x - D) / sigma = D + (sigma'/sigma) (x - D); at sigma' = 0 it returns D.
    """

    order = 1
    stochastic = False
    straight = True

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        """The sample at ``step.sigma_next``; nothing is remembered."""
        x0 = denoise(x_BCXYZ, x_BCXYZ.new_full(x_BCXYZ.shape[:1], step.sigma))
        return x0 + (step.sigma_next / step.sigma) * (x_BCXYZ - x0), None


class Config(BaseConfig):
    """Euler steps: one network evaluation each. The same map as ``ddim`` with ``eta: 0``; of students, the jump from segment to segment."""

    kind: Literal["euler"] = "euler"

    def build(self) -> Euler:
        """Makes the solver."""
        return Euler()
