"""What the data say is added as if volumes were of the fitted Gaussian: no gradient, and nothing to tune.

    D_y = D + C A* (A C A* + s_y^2)^-1 (y - A D),      C = (S^-1 + s^-2)^-1

S is the covariance of the Gaussian that the preconditioner was fitted to. For a Gaussian cohort this is E[x0 | x, y], so that every
solver of the prior is one of the posterior; else it is what the best Gaussian makes of the network's error. Sampling starts from the
Gaussian's own posterior, as the highest noise level does not drown what was measured. The nearest kin: Boys et al. 2023 (TMPD), with C
from gradients, and Rissanen et al. 2024 (free hunch), with C from cosines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from volgen.core.conjugate import Limits
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Guidance, Noises, Problem
from volgen.core.search import Search
from volgen.sampling.guidances._data import Solving, level, measurement, missing
from volgen.sampling.guidances._spread import Spread, covariance_of


class Config(Solving):
    """The fitted Gaussian's posterior mean around the network's: the volume to expect, with any solver."""

    searched: ClassVar[Mapping[str, Search]] = {"spread": Search(0.2, 2.0, log=True)}
    kind: Literal["gauss"] = "gauss"
    spread: float = Field(default=1.0, gt=0.0, le=100.0)
    """Variance of what the denoiser leaves open, over that of the fitted Gaussian: 1 for a Gaussian; a network leaves less."""
    temperature: float = Field(default=1.0, ge=0.0, le=1.0)
    """How far the start is from what is expected, over how far a sample's is. With 0 and a solver that draws no noise every volume is the
    same one: for a Gaussian that to expect, else about that."""

    def build(self) -> Gauss:
        """Makes the guidance."""
        return Gauss(self.limits, self.spread, self.temperature)


class Gauss(Guidance):
    """The equation of this module.

    Args:
        limits: when iterations stop.
        spread: variance of what the denoiser leaves open, over that of the fitted Gaussian.
        temperature: how far the start is from what is expected, over how far that of a sample is.
    """

    def __init__(self, limits: Limits, spread: float = 1.0, temperature: float = 1.0) -> None:
        self._spread, self._temperature = Spread(limits, spread), temperature

    def check(self, problem: Problem) -> None:
        """Wants a measurement, and a preconditioner that says how volumes spread.

        Raises:
            UserError: there is none.
        """
        measurement(problem, "gauss")
        covariance_of(problem)

    def prior(self, problem: Problem, sigma: float, noises: Noises) -> Tensor:
        """A sample of the Gaussian's posterior under noise, or one that is nearer to its mean: the start is affine in its noises."""
        return self._spread.start(problem, sigma, lambda k: self._temperature * noises(k))

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        """One evaluation of the denoiser, and one solution."""
        measured = measurement(problem, "gauss")

        def guided(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            x0_BCXYZ = denoise(y_BCXYZ, sigma_B, given)
            return x0_BCXYZ + self._spread.correction(problem, missing(measured, x0_BCXYZ), level(sigma_B))

        return guided
