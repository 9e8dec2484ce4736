"""Volumes are drawn of what is known of them, and noise is added anew: exact for a Gaussian in any number of steps.

At each noise level a clean volume is drawn from N(D_y, C - C A* (A C A* + s_y^2)^-1 A C), where D_y is that of ``gauss``: by perturbing and
solving (Papandreou & Yuille 2010),

    x0 = D + e + C A* (A C A* + s_y^2)^-1 (y + n - A (D + e)),      e ~ N(0, C),  n ~ N(0, s_y^2)

and the solver ``renoise`` adds noise of the next level to it. If x0 given x is N(D, C), every x' = x0 + s' z then has the distribution of
the posterior under noise of s', however far apart the levels are; and the last draw has the details below the lowest level, which are
known only as a distribution. Without data these are samples of the prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from volgen.core.conjugate import Limits
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Guidance, Noises, Problem
from volgen.core.search import Search
from volgen.sampling.guidances._data import Solving, level
from volgen.sampling.guidances._spread import Spread, covariance_of, redrawn


class Config(Solving):
    """Draws of the posterior around the network's estimate; goes with ``--sampler renoise``."""

    goes_with: ClassVar[Mapping[str, Any]] = {"kind": "renoise"}
    searched: ClassVar[Mapping[str, Search]] = {"spread": Search(0.2, 2.0, log=True)}
    kind: Literal["resample"] = "resample"
    spread: float = Field(default=1.0, gt=0.0, le=100.0)
    """Variance of what the denoiser leaves open, over that of the fitted Gaussian: 1 for a Gaussian; a network leaves less."""

    def build(self) -> Resample:
        """Makes the guidance."""
        return Resample(self.limits, self.spread)


class Resample(Guidance):
    """The equation of this module.

    Args:
        limits: when iterations stop.
        spread: variance of what the denoiser leaves open, over that of the fitted Gaussian.
    """

    renoises = True

    def __init__(self, limits: Limits, spread: float = 1.0) -> None:
        self._spread = Spread(limits, spread)

    def check(self, problem: Problem) -> None:
        """Wants a preconditioner that says how volumes spread.

        Raises:
            UserError: it does not.
        """
        covariance_of(problem)

    def prior(self, problem: Problem, sigma: float, noises: Noises) -> Tensor:
        """A sample of the Gaussian's posterior under noise."""
        return self._spread.start(problem, sigma, noises)

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        """One evaluation of the denoiser, and one solution."""
        covariance = self._spread.left(problem)

        def guided(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            sigma = level(sigma_B)
            x0_BCXYZ = denoise(y_BCXYZ, sigma_B, given) + covariance.drawn(noises(0), noises(1), sigma)
            if problem.measurement is None:
                return x0_BCXYZ
            return x0_BCXYZ + self._spread.correction(problem, redrawn(problem.measurement, x0_BCXYZ, noises, 2), sigma)

        return guided
