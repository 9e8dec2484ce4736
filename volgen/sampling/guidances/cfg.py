"""Guidance without a classifier (Ho & Salimans 2022): what is asked for counts more than the network says by itself.

A network that was trained with conditions, each left out now and then, is two denoisers: D_c of those of whom this is true, and D_u of
everybody. D' = D_u + w (D_c - D_u), equation 6 there with 1 + w for w: volumes move away from what is anybody's. For classes N(mu_c, L) the
volumes are of N(mu_u + w (mu_c - mu_u), L): means go beyond what was asked for, and where people of one class are more alike than all
are, guided volumes are more alike than people of the class (:mod:`volgen.sampling.guidances._away`). Only noise levels from
``sigma_low`` to ``sigma_high`` need it (Kynkaanniemi et al. 2024, limited intervals).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Guidance, Noises, Problem
from volgen.sampling.guidances._away import Away, AwayConfig


class Config(AwayConfig):
    """Ho & Salimans 2022: away from what is expected of anybody, towards what is asked for (``--given``)."""

    kind: Literal["cfg"] = "cfg"

    def build(self) -> WithoutClassifier:
        """Makes the guidance."""
        return WithoutClassifier(self.away)


@dataclass(frozen=True)
class WithoutClassifier(Guidance):
    """The equation of this module.

    Attributes:
        away: strength and interval.
    """

    whole = False
    asks = True

    away: Away

    def check(self, problem: Problem) -> None:
        """Wants no measurement: it would not be looked at.

        Raises:
            UserError: there is one.
        """
        if problem.measurement is not None:
            raise UserError("--guidance", "cfg does not look at measurements", "projection, or no --data")

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        """Two evaluations of the denoiser, told and not told; one where nothing is asked for, or the noise level is not guided."""
        turn = object()

        def guided(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            told_BCXYZ = denoise(y_BCXYZ, sigma_B, given)
            if not self.away.guides(float(sigma_B[0])) or not given.told:
                return self.away.unguided(sigma_B, told_BCXYZ)
            untold_BCXYZ = denoise(y_BCXYZ, sigma_B, given.untold())
            return self.away.moved(turn, y_BCXYZ, sigma_B, untold_BCXYZ, told_BCXYZ, given)

        return guided

    def noted(self) -> Mapping[str, float]:
        """The spread that is left (:meth:`volgen.sampling.guidances._away.Away.noted`)."""
        return self.away.noted()
