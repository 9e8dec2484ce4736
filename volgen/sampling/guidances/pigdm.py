"""PiGDM (Song, Vahdat, Mardani & Kautz 2023, "Pseudoinverse-guided diffusion models for inverse problems", equation 7).

    D_y = D + s^2 J^T A* (r^2 A A* + s_y^2)^-1 (y - A D),      r^2 = s^2 / (1 + s^2)

J is the derivative of the denoiser, r^2 the variance of voxels of data with variance 1. As a denoiser of the conditional distribution, the
same whatever the solver: the published update adds r^2 (...) to every step of ``ddim``, and so grows stronger with the number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from volgen.core.conjugate import Limits, corrected
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Noises, Problem
from volgen.sampling.guidances._data import Informed, Solving, level, measurement, missing, noise_of


class Config(Solving):
    """Song et al. 2023: what is missing in the data, through the pseudo-inverse and the derivative of the denoiser."""

    goes_with: ClassVar[Mapping[str, Any]] = {"kind": "ddim", "eta": 1.0}
    kind: Literal["pigdm"] = "pigdm"

    def build(self) -> PiGDM:
        """Makes the guidance."""
        return PiGDM(self.limits)


@dataclass(frozen=True)
class PiGDM(Informed):
    """The equation of this module.

    Attributes:
        limits: when iterations stop.
    """

    kind = "pigdm"

    differentiates = True

    limits: Limits

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        """One evaluation of the denoiser, and one gradient through it."""
        measured = measurement(problem, self.kind)

        def guided(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            sigma = level(sigma_B)
            y_BCXYZ = y_BCXYZ.detach().requires_grad_()
            x0_BCXYZ = denoise(y_BCXYZ, sigma_B, given)
            variance = sigma**2 / (1.0 + sigma**2)

            def times(x_BCXYZ: Tensor) -> Tensor:
                return variance * x_BCXYZ

            with torch.no_grad():
                residual = missing(measured, x0_BCXYZ)
                towards = corrected(measured.operator, times, residual, noise_of(measured), limits=self.limits).x_BCXYZ / variance
            (slope,) = torch.autograd.grad(x0_BCXYZ, y_BCXYZ, towards)
            return x0_BCXYZ.detach() + sigma**2 * slope

        return guided
