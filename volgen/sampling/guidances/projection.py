"""Projection (Song, Shen, Xing & Ermon 2022, "Solving inverse problems in medical imaging with score-based generative models", section 3).

Before the denoiser is asked at a noise level s, the sample is moved towards those that explain the data at that level,

    y_s = y + s A z,   x^ = x + lambda A^+ (y_s - A x)      (the paper's proximal step; z anew at every level)

and what the denoiser expects is moved towards those that explain the data themselves, D' = D(x^, s) + lambda A^+ (y - A D): so the
volume in which a descent ends agrees with the data, as after the paper's last step.

With lambda 1, orthonormal rows of A and a solver of one step (``ddim``, ``ddpm``, ``euler``), whatever part of the sample the solver
carries on in the measured subspace is overwritten at the next level: the unmeasured part is the paper's, step by step. With a smaller
lambda a solver moves on from x, where the paper moves on from x^.

What it cannot do: the measured part of a volume has no spread at all, so noise in the data is copied into it, and the unmeasured part
is too wide (with many steps nearly twice the variance of a Gaussian posterior). It is the published method, no sample of the posterior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Guidance, Measurement, Noises, Problem, Proximal
from volgen.core.search import Search
from volgen.sampling.guidances import GuidanceConfig


class Projection(Guidance):
    """Moves samples towards the data before the denoiser is asked, and its answer after.

    Args:
        strength: lambda, from 0 (no guidance) to 1 (the data as they are).
    """

    moves = True

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def check(self, problem: Problem) -> None:
        """Wants a measurement whose nearest explanation is known in closed form.

        Raises:
            UserError: there is none.
        """
        _nearest(problem)

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        """One evaluation of the denoiser."""
        measured, nearest = _nearest(problem)

        def towards(data: Tensor, x_BCXYZ: Tensor) -> Tensor:
            return torch.lerp(x_BCXYZ, nearest(x_BCXYZ, data), self.strength)

        def guided(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            # One volume at a time has one noise level.
            noisy = measured.data + measured.operator.apply(sigma_B.view(-1, 1, 1, 1, 1) * noises(0))
            return towards(measured.data, denoise(towards(noisy, y_BCXYZ), sigma_B, given))

        return guided


def _nearest(problem: Problem) -> tuple[Measurement, Proximal]:
    if problem.measurement is None:
        raise UserError("--guidance", "projection has nothing to agree with", "a measurement: --operator KIND and --data FILE")
    nearest = problem.measurement.operator.closed(math.inf)
    if nearest is None:
        found = "projection does not know which volume that explains these data is the nearest"
        raise UserError("--guidance", found, "an operator that has it in closed form, such as inpaint")
    return problem.measurement, nearest


class Config(GuidanceConfig):
    """Song et al. 2022: the measured part replaced at the noise level, before the denoiser is asked."""

    goes_with: ClassVar[Mapping[str, Any]] = {"kind": "ddpm"}
    searched: ClassVar[Mapping[str, Search]] = {"strength": Search(0.0, 1.0)}
    kind: Literal["projection"] = "projection"
    strength: float = Field(default=1.0, ge=0.0, le=1.0)
    """The paper's lambda: 0 ignores the data, 1 has the measured part as it was measured."""

    def build(self) -> Projection:
        """Makes the guidance."""
        return Projection(self.strength)
