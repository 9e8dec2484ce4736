"""DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2): multistep, data prediction, in log-SNR."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.protocols import Denoiser, Sampler, Step


class DPMpp2M(Sampler):
    """Second-order solver at one network evaluation a step: the slope of D comes from the step before.

    In our coordinate the paper's alpha is 1, so half the log-SNR is lambda = -log sigma. With h = lambda' - lambda and r = h_before / h,

        x' = (sigma'/sigma) x - (e^-h - 1) ((1 + 1/(2r)) D - 1/(2r) D_before).

    The first step has no past and the last one (sigma' = 0, h infinite) none that counts: both are first order, which leaves the
    global order at two. Best on a grid uniform in log sigma, where r = 1.
    """

    order = 2
    stochastic = False
    remembers = (Tensor, float)

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        """The sample at ``step.sigma_next``; remembers (D, sigma) of this step."""
        x0 = denoise(x_BCXYZ, x_BCXYZ.new_full(x_BCXYZ.shape[:1], step.sigma))
        remembered = (x0, step.sigma)
        if step.sigma_next == 0.0:
            return x0, None
        extrapolated = x0
        if memory is not None:
            x0_before, sigma_before = memory
            h_over_h_before = math.log(step.sigma / step.sigma_next) / math.log(sigma_before / step.sigma)
            extrapolated = x0 + 0.5 * h_over_h_before * (x0 - x0_before)
        ratio = step.sigma_next / step.sigma
        return ratio * x_BCXYZ + (1.0 - ratio) * extrapolated, remembered


class Config(BaseConfig):
    """DPM-Solver++(2M) steps: one network evaluation each."""

    kind: Literal["dpmpp_2m"] = "dpmpp_2m"

    def build(self) -> DPMpp2M:
        """Makes the solver."""
        return DPMpp2M()
