"""Steps that begin again from what the denoiser returns (Song, Dhariwal, Chen & Sutskever 2023, algorithm 1, multistep sampling)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Denoiser, Sampler, Step
from volgen.core.search import Search


class Renoise(Sampler):
    """A volume D and fresh noise of the next level: of the sample nothing is left but what the denoiser made of it.

        x' = D + sigma' (sqrt(1 - share) (x - D) / sigma + sqrt(share) z)

    With share 1, where D is *drawn* from what is known of the clean volume (guidances that renoise, consistency students), x' has the right
    distribution whatever the number of steps. Where D is expected, samples have too little variance: for a Gaussian and many small steps
    half of it. A share below 1 is the update of DiffPIR (Zhu et al. 2023, equation 16, their zeta); 0 is ``euler``.

    Args:
        share: how much of the next level's noise is fresh, in variance.
    """

    order = 1
    stochastic = True

    def __init__(self, share: float) -> None:
        self.share = share
        self.renoises = share == 1.0

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        """The sample at ``step.sigma_next``; nothing is remembered."""
        x0 = denoise(x_BCXYZ, x_BCXYZ.new_full(x_BCXYZ.shape[:1], step.sigma))
        if step.sigma_next == 0.0:
            return x0, None
        fresh = step.sigma_next * math.sqrt(self.share) * step.noise()
        if self.renoises:
            return x0 + fresh, None
        return x0 + (step.sigma_next / step.sigma * math.sqrt(1.0 - self.share)) * (x_BCXYZ - x0) + fresh, None


class Config(BaseConfig):
    """What the denoiser returns, and fresh noise: for guidances that draw, and for consistency students."""

    searched: ClassVar[Mapping[str, Search]] = {"share": Search(0.01, 1.0)}
    kind: Literal["renoise"] = "renoise"
    share: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of fresh noise in variance (DiffPIR's zeta); less than 1 keeps some of what was there."""

    def build(self) -> Renoise:
        """Makes the solver."""
        return Renoise(self.share)
