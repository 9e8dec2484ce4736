"""DDIM (Song, Meng & Ermon 2021, equations 12 and 16) in the sigma coordinate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Denoiser, Sampler, Step
from volgen.core.search import Search


class DDIM(Sampler):
    """A family from a deterministic (eta = 0) to an ancestral (eta = 1) sampler, all with the same marginals.

    The paper's x_t is sqrt(abar_t) times our x, so its noise scale (equation 16), divided by sqrt(abar_{t-1}), becomes

        up = eta sigma' sqrt(1 - sigma'^2 / sigma^2),   down = sqrt(sigma'^2 - up^2)
        x' = D + (down / sigma) (x - D) + up z.

    With eta = 0 this is Euler's step of the probability-flow ODE: ``euler`` and ``ddim`` then draw the same volumes. With
    eta = 1 it is the posterior of DDPM: the same volumes as ``ddpm``. What only this file offers lies between the two.
    """

    order = 1

    def __init__(self, eta: float) -> None:
        self.eta = eta
        self.stochastic = eta > 0.0
        self.straight = not self.stochastic

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        """The sample at ``step.sigma_next``; nothing is remembered."""
        x0 = denoise(x_BCXYZ, x_BCXYZ.new_full(x_BCXYZ.shape[:1], step.sigma))
        up = self.eta * step.sigma_next * math.sqrt(max(0.0, 1.0 - (step.sigma_next / step.sigma) ** 2))
        down = math.sqrt(step.sigma_next**2 - up**2)
        x_next = x0 + (down / step.sigma) * (x_BCXYZ - x0)
        return (x_next + up * step.noise() if up > 0.0 else x_next), None


class Config(BaseConfig):
    """DDIM steps: one network evaluation each."""

    searched: ClassVar[Mapping[str, Search]] = {"eta": Search(0.0, 1.0)}
    kind: Literal["ddim"] = "ddim"
    eta: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of fresh noise: 0 is deterministic, 1 is ancestral sampling."""

    def build(self) -> DDIM:
        """Makes the solver."""
        return DDIM(self.eta)
