"""Autoguidance (Karras, Aittala, Kynkaanniemi, Lehtinen, Aila & Laine 2024, "Guiding a diffusion model with a bad version of itself").

A trained denoiser is moved away from a worse one of the same data, D' = W + w (D - W): where they differ, the better one has seen what the
worse one has not, and w > 1 goes on in that direction. The worse one here is what the run's preconditioner expects without a network, for
a fitted Gaussian its posterior mean, which costs nothing: then D' = E + w q F, the network's correction made larger. Networks that
are not trained to the end agree on a blur where they are in doubt; this makes up their minds, at the price of some of the spread of
samples. Only noise levels from ``sigma_low`` to ``sigma_high`` need it (Kynkaanniemi et al. 2024, limited intervals).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from volgen.core.config import Config as BaseConfig
from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Expected, Guidance, Noises, Problem


class Config(BaseConfig):
    """Karras et al. 2024: away from what is expected without a network."""

    kind: Literal["auto"] = "auto"
    strength: float = Field(default=1.5, ge=1.0, le=10.0)
    """w: how many times the network's correction counts; 1 is no guidance."""
    sigma_low: NonNegativeFloat = 0.0
    """Lowest noise level that is guided."""
    sigma_high: PositiveFloat | None = None
    """Highest noise level that is guided; all of them if None."""

    @model_validator(mode="after")
    def _interval(self) -> Self:
        if self.sigma_high is not None and self.sigma_low > self.sigma_high:
            raise ValueError(f"sigma_low ({self.sigma_low}) is above sigma_high ({self.sigma_high})")
        return self

    def build(self) -> Auto:
        """Makes the guidance."""
        return Auto(self.strength, self.sigma_low, math.inf if self.sigma_high is None else self.sigma_high)


@dataclass(frozen=True)
class Auto(Guidance):
    """The equation of this module.

    Attributes:
        strength: w.
        low: lowest noise level that is guided.
        high: highest one.
    """

    whole = False

    strength: float
    low: float
    high: float

    def check(self, problem: Problem) -> None:
        """Wants a preconditioner to be asked, and no measurement: it would not be looked at.

        Raises:
            UserError: it is otherwise.
        """
        if problem.measurement is not None:
            raise UserError("--guidance", "auto does not look at measurements", "projection, or no --data")
        _expected(problem)

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        """One evaluation of the denoiser, and one of what is expected without it."""
        expected = _expected(problem)

        def guided(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            x0_BCXYZ = denoise(y_BCXYZ, sigma_B, given)
            if not self.low <= float(sigma_B[0]) <= self.high:  # one volume at a time has one noise level
                return x0_BCXYZ
            return expected(y_BCXYZ, sigma_B).lerp(x0_BCXYZ, self.strength)

        return guided


def _expected(problem: Problem) -> Expected:
    if problem.expected is None:
        raise UserError("--guidance", "auto has no worse denoiser to move away from", "samples of a run with a preconditioner")
    return problem.expected
