"""Song et al. 2022 as published ("Solving inverse problems in medical imaging with score-based generative models", algorithm 2).

Before each step of the prior the sample is moved towards those that explain the data at its noise level::

    y_s = y + s A z,   x^ = argmin (1 - lambda) |x^ - x|^2 + lambda min over A u = y_s of |x^ - u|^2 = x + lambda A^+ (y_s - A x)

with z anew in every step, and the solver goes on from x^; after the last step, lambda is ``end``. ``projection`` is the same put into a
denoiser, which moves nothing of what the solver has made of the sample.

Of a real volume, k-space at -k is the conjugate of that at k, so that each line is measured twice: A^+ takes both (the mean where both
lines are in the mask, and both from one where one is). The published code keeps the real part of a merged complex image, which is A* in
place of A^+: where a line's mirror image is not in the mask, it goes half of the way. ``mirror: false`` is that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from volgen.core.conjugate import Limits
from volgen.core.protocols import Denoiser, Measurement, Noises, Problem, Proximal, Sampler, Solver, Step
from volgen.core.search import Search
from volgen.sampling.guidances._data import Informed, Solving, measurement, proximal


class Config(Solving):
    """Song et al. 2022 as published: the sample itself is moved towards the data before each step."""

    goes_with: ClassVar[Mapping[str, Any]] = {"kind": "ddpm"}
    searched: ClassVar[Mapping[str, Search]] = {"strength": Search(0.0, 1.0)}
    kind: Literal["song"] = "song"
    strength: float = Field(default=1.0, ge=0.0, le=1.0)
    """The paper's lambda: 0 ignores the data, 1 has the measured part as it was measured."""
    end: float = Field(default=1.0, ge=0.0, le=1.0)
    """Lambda after the last step."""
    mirror: bool = True
    """Whether both of two mirror lines of k-space are known from one; false is the published code, for instruments of orthonormal rows."""

    def build(self) -> Song:
        """Makes the guidance."""
        return Song(self.strength, self.end, self.mirror, self.limits)


@dataclass(frozen=True)
class Song(Informed):
    """The equation of this module.

    Attributes:
        strength: lambda.
        end: lambda after the last step.
        mirror: whether A^+ is used, or A*.
        limits: when iterations stop.
    """

    kind = "song"

    moves = True

    strength: float
    end: float
    mirror: bool
    limits: Limits

    def solver(self, sampler: Sampler, problem: Problem, noises: Noises) -> Solver:
        """The solver's step from a sample that agrees with the data."""
        measured = measurement(problem, self.kind)
        agreeing = proximal(measured, math.inf, self.limits) if self.mirror else _published(measured)
        return _Agreeing(sampler, measured, agreeing, noises, self)


@dataclass(frozen=True)
class _Agreeing:
    sampler: Sampler
    measured: Measurement
    agreeing: Proximal
    noises: Noises
    method: Song

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        measured = self.measured
        noisy = measured.data + measured.operator.apply(step.sigma * self.noises(0))
        x_BCXYZ = x_BCXYZ.lerp(self.agreeing(x_BCXYZ, noisy), self.method.strength)
        x_BCXYZ, memory = self.sampler.step(denoise, x_BCXYZ, step, memory)
        if step.sigma_next == 0.0:
            x_BCXYZ = x_BCXYZ.lerp(self.agreeing(x_BCXYZ, measured.data), self.method.end)
        return x_BCXYZ, memory


def _published(measured: Measurement) -> Proximal:
    operator = measured.operator
    return lambda z_BCXYZ, data: z_BCXYZ + operator.adjoint(data - operator.apply(z_BCXYZ))
