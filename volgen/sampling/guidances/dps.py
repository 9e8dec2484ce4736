"""DPS (Chung, Kim, McCann, Klasky & Ye 2023, "Diffusion posterior sampling for general noisy inverse problems", algorithm 1).

    x' = ddpm(D) - zeta_s d|y - A D(x)| / dx,      zeta_s = strength sqrt((1 + s^2) (1 + s'^2)) sqrt(n / 196608)

after the solver's own step (``ddpm`` as published). The root of (1 + s^2) (1 + s'^2) is the paper's step in its variance-preserving
coordinate, x / sqrt(1 + s^2). The gradient of a norm has the length of one voxel's error however many voxels there are, so the paper's
step of 3 * 256^2 numbers is scaled to n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from volgen.core.conjugate import norm
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Measurement, Noises, Problem, Sampler, Solver, Step
from volgen.core.search import Search
from volgen.sampling.guidances import GuidanceConfig
from volgen.sampling.guidances._data import Informed, measurement, missing

NUMBERS = 3 * 256**2
"""Numbers in an image of the paper."""


class Config(GuidanceConfig):
    """Chung et al. 2023: a gradient through the denoiser after each step; goes with ``--sampler ddpm`` and many steps."""

    goes_with: ClassVar[Mapping[str, Any]] = {"kind": "ddpm"}
    searched: ClassVar[Mapping[str, Search]] = {"strength": Search(0.1, 30.0, log=True)}
    kind: Literal["dps"] = "dps"
    strength: float = Field(default=1.0, gt=0.0)
    """Their zeta, of images of 3 * 256^2 numbers: from 0.3 to 10, to be tuned."""

    def build(self) -> DPS:
        """Makes the guidance."""
        return DPS(self.strength)


@dataclass(frozen=True)
class DPS(Informed):
    """The equation of this module.

    Attributes:
        strength: zeta.
    """

    kind = "dps"

    differentiates = True

    curved = True

    strength: float

    def solver(self, sampler: Sampler, problem: Problem, noises: Noises) -> Solver:
        """The solver's step, and one down the gradient at the sample that it asked about last."""
        return _Descending(sampler, measurement(problem, self.kind), self.strength)


@dataclass(frozen=True)
class _Descending:
    sampler: Sampler
    measured: Measurement
    strength: float

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        asked = list[tuple[Tensor, Tensor]]()

        def recording(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            y_BCXYZ = y_BCXYZ.detach().requires_grad_()
            asked[:] = [(y_BCXYZ, denoise(y_BCXYZ, sigma_B))]
            return asked[0][1].detach()

        x_BCXYZ, memory = self.sampler.step(recording, x_BCXYZ, step, memory)
        ((y_BCXYZ, x0_BCXYZ),) = asked
        with torch.no_grad():
            residual = missing(self.measured, x0_BCXYZ)
            size = float(norm(residual)[0])
            towards = self.measured.operator.adjoint(residual) / (size or 1.0)
        (slope,) = torch.autograd.grad(x0_BCXYZ, y_BCXYZ, towards)
        scale = math.sqrt((1.0 + step.sigma**2) * (1.0 + step.sigma_next**2) * x_BCXYZ.numel() / NUMBERS)
        return x_BCXYZ + self.strength * scale * slope, memory
