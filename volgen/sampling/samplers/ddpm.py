"""Ancestral sampling (Ho et al. 2020, equations 6 and 7) in the sigma coordinate."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Denoiser, Sampler, Step


class DDPM(Sampler):
    """Draws from the Gaussian q(x' | x, x0 = D) between two noise levels that need not be neighbours.

    With x = x' + sqrt(sigma^2 - sigma'^2) z and x' = x0 + sigma' z', Bayes' rule gives

        x' | x, x0  ~  N(x0 + (sigma'^2 / sigma^2) (x - x0),  sigma'^2 (sigma^2 - sigma'^2) / sigma^2),

    which is the paper's beta-tilde posterior for any pair of levels. A subset of a schedule needs no other formula; taking the
    betas of the full schedule for it, as some schedulers do, gives the wrong variance.
    """

    order = 1
    stochastic = True

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        """The sample at ``step.sigma_next``; nothing is remembered."""
        x0 = denoise(x_BCXYZ, x_BCXYZ.new_full(x_BCXYZ.shape[:1], step.sigma))
        kept = (step.sigma_next / step.sigma) ** 2
        x_next = x0 + kept * (x_BCXYZ - x0)
        fresh = step.sigma_next * math.sqrt(1.0 - kept)
        return (x_next + fresh * step.noise() if fresh > 0.0 else x_next), None


class Config(BaseConfig):
    """Ancestral steps: one network evaluation each; wants many steps (with few, samples have too little variance)."""

    kind: Literal["ddpm"] = "ddpm"

    def build(self) -> DDPM:
        """Makes the solver."""
        return DDPM()
