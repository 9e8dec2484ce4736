"""DDS (Chung, Lee & Ye 2024, "Decomposed diffusion sampler for accelerating large-scale inverse problems", algorithm 1).

What the solver is given is::

    D_y = argmin over x0 of |x0 - D|^2 + gamma |y - A x0|^2,      x' = D_y + s' (sqrt(1 - eta^2) (x - D) / s + eta z)

by a few conjugate gradients that begin at D. The noise of the sample is that around D and not around D_y, so the step is the solver's own,
moved by D_y - D: that of ``renoise`` with ``share`` eta^2 (as published, eta is 0.85 for 50 steps). Iterations are over each volume alone,
with complex inner products. A gamma that is the same at all noise levels regularises by the end of the iteration: more of them fit the
noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from volgen.core.conjugate import Limits, explained
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Measurement, Noises, Problem, Sampler, Solver, Step
from volgen.core.search import Search
from volgen.sampling.guidances import GuidanceConfig
from volgen.sampling.guidances._data import Informed, measurement


class Config(GuidanceConfig):
    """Chung et al. 2024: a few conjugate gradients from what is expected to the data; goes with ``--sampler renoise``, ``share`` 0.72."""

    goes_with: ClassVar[Mapping[str, Any]] = {"kind": "renoise", "share": 0.0225}
    searched: ClassVar[Mapping[str, Search]] = {"gamma": Search(0.1, 1e4, log=True)}
    kind: Literal["dds"] = "dds"
    gamma: float = Field(default=5.0, gt=0.0)
    """How much the data count."""
    iterations: int = Field(default=5, ge=1, le=10_000)
    """Conjugate gradients of each step."""

    def build(self) -> DDS:
        """Makes the guidance."""
        return DDS(self.gamma, self.iterations)


@dataclass(frozen=True)
class DDS(Informed):
    """The equations of this module.

    Attributes:
        gamma: how much the data count.
        iterations: how many conjugate gradients a step has.
    """

    kind = "dds"

    moves = True

    gamma: float
    iterations: int

    def solver(self, sampler: Sampler, problem: Problem, noises: Noises) -> Solver:
        """The solver's step, moved by what the data change in what it was told last."""
        return _Moving(sampler, measurement(problem, self.kind), self)


@dataclass(frozen=True)
class _Moving:
    sampler: Sampler
    measured: Measurement
    method: DDS

    def step(self, denoise: Denoiser, x_BCXYZ: Tensor, step: Step, memory: Any) -> tuple[Tensor, Any]:
        told = list[Tensor]()

        def telling(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            told.append(denoise(y_BCXYZ, sigma_B))
            return told[-1]

        x_BCXYZ, memory = self.sampler.step(telling, x_BCXYZ, step, memory)
        limits = Limits(1e-6, self.method.iterations)
        agreeing = explained(self.measured.operator, told[-1], self.measured.data, self.method.gamma, limits=limits).x
        return x_BCXYZ + (agreeing - told[-1]), memory
