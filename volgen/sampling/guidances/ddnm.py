"""DDNM (Wang, Yu & Zhang 2023, "Zero-shot image restoration using denoising diffusion null-space model", equation 13).

    D_y = D + A^+ (y - A D)

The measured part of what is expected is that of the data; the solver draws the rest (``ddpm`` as published, or ``ddim`` with an eta). Noise
in the data is copied into volumes, the measured part has no spread, and for a Gaussian the unmeasured part has nearly twice the
variance it should have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from volgen.core.conjugate import Limits
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Noises, Problem
from volgen.sampling.guidances._data import Informed, Solving, measurement, proximal


class Config(Solving):
    """Wang et al. 2023: the measured part of what is expected replaced by the data."""

    goes_with: ClassVar[Mapping[str, Any]] = {"kind": "ddpm"}
    kind: Literal["ddnm"] = "ddnm"

    def build(self) -> DDNM:
        """Makes the guidance."""
        return DDNM(self.limits)


@dataclass(frozen=True)
class DDNM(Informed):
    """The equation of this module.

    Attributes:
        limits: when iterations stop.
    """

    kind = "ddnm"

    limits: Limits

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        """One evaluation of the denoiser."""
        measured = measurement(problem, self.kind)
        agreeing = proximal(measured, math.inf, self.limits)

        def guided(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            return agreeing(denoise(y_BCXYZ, sigma_B, given), measured.data)

        return guided
