"""DiffPIR (Zhu, Zhang, Liang, Cao, Wen, Timofte & Van Gool 2023, "Denoising diffusion models for plug-and-play image restoration").

What the solver is given is::

    D_y = argmin over x0 of |y - A x0|^2 + rho |x0 - D|^2,      rho = weight s_y^2 / s^2

as if what is expected were wrong by white noise of s / sqrt(weight). The published update is the solver ``renoise`` with
``share`` 0.3 (their zeta). Only with weight 1 and share 1 do samples of a Gaussian have the right mean, and their variance is half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from volgen.core.conjugate import Limits
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Noises, Problem
from volgen.core.search import Search
from volgen.sampling.guidances._data import Informed, Solving, level, measurement, noise_of, proximal


class Config(Solving):
    """Zhu et al. 2023: the volume near what is expected that agrees with the data; goes with ``--sampler renoise``."""

    goes_with: ClassVar[Mapping[str, Any]] = {"kind": "renoise", "share": 0.3}
    searched: ClassVar[Mapping[str, Search]] = {"weight": Search(0.1, 100.0, log=True)}
    kind: Literal["diffpir"] = "diffpir"
    weight: float = Field(default=7.0, gt=0.0)
    """Their lambda: how much what the network expects counts."""

    def build(self) -> DiffPIR:
        """Makes the guidance."""
        return DiffPIR(self.weight, self.limits)


@dataclass(frozen=True)
class DiffPIR(Informed):
    """The equation of this module.

    Attributes:
        weight: lambda.
        limits: when iterations stop.
    """

    kind = "diffpir"

    weight: float
    limits: Limits

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        """One evaluation of the denoiser."""
        measured = measurement(problem, self.kind)

        def guided(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            gamma = level(sigma_B) ** 2 / (self.weight * noise_of(measured) ** 2)
            return proximal(measured, gamma, self.limits)(denoise(y_BCXYZ, sigma_B, given), measured.data)

        return guided
