"""Autoguidance (Karras, Aittala, Kynkaanniemi, Lehtinen, Aila & Laine 2024, "Guiding a diffusion model with a bad version of itself").

A trained denoiser is moved away from a worse one of the same data, D' = W + w (D - W): where they differ, the better one has seen what the
worse one has not, and w > 1 goes on in that direction. The worse one (``weak``) is what the run's preconditioner expects without a
network, for a fitted Gaussian its posterior mean, which costs nothing: then D' = E + w q F, the network's correction made larger. Or it is
the network that the run's experts were started from (``shared``), or another run that was trained less, or is smaller, which cost an
evaluation more. Networks that are not trained to the end agree on a blur where they are in doubt; this makes up their minds, at the price
of some of the spread of samples (:mod:`volgen.sampling.guidances._away`). Only noise levels from ``sigma_low`` to ``sigma_high`` need it
(Kynkaanniemi et al. 2024, limited intervals).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeFloat
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Guidance, Noises, Problem
from volgen.sampling.guidances._away import Away, AwayConfig, below

EXPECTED = "expected"


class Config(AwayConfig):
    """Karras et al. 2024: away from a worse denoiser of the same people."""

    kind: Literal["auto"] = "auto"
    weak: str = EXPECTED
    """The worse denoiser: ``expected``, what is expected without a network; ``shared``, the network that the run's experts were started
    from (``experts.shared_steps``), or those of the run that it began from; or the directory of another run of the same shape, such as
    one of fewer steps."""
    weak_above: NonNegativeFloat = 0.0
    """Noise level above which ``weak`` is asked. From there down the worse denoiser is what is expected without a network: experts of the
    finest voxels take most of the time, and a second network of theirs as much again."""
    weak_mirrored: bool = True
    """Whether ``weak`` is asked about both sides where its run's denoisers are (``mirrored``). Asked about one it takes half the time, and
    its chance errors, which both sides make less of, count as what volumes move away from."""

    def build(self) -> Auto:
        """Makes the guidance."""
        return Auto(self.away, "" if self.weak == EXPECTED else self.weak, self.weak_above, self.weak_mirrored)


@dataclass(frozen=True)
class Auto(Guidance):
    """The equation of this module.

    Attributes:
        away: strength and interval.
        weak: the worse denoiser that has to be brought; "" if it is what is expected without a network.
        weak_above: noise level down to which that one is asked, and what is expected without a network from there on.
        weak_mirrored: whether that one is asked about both sides.
    """

    whole = False

    away: Away
    weak: str = ""
    weak_above: float = 0.0
    weak_mirrored: bool = True

    def asks_weak(self, sigma: float) -> bool:
        """Whether a noise level is within its interval and above ``weak_above``."""
        return bool(self.weak) and self.away.guides(sigma) and below(self.weak_above, sigma)

    def enlarges(self, sigma: float) -> float:
        """The strength, where what is expected without a network is moved away from."""
        return self.away.strength_at(sigma) if self.away.guides(sigma) and not self.asks_weak(sigma) else 1.0

    def check(self, problem: Problem) -> None:
        """Wants a worse denoiser, and no measurement: it would not be looked at.

        Raises:
            UserError: it is otherwise.
        """
        if problem.measurement is not None:
            raise UserError("--guidance", "auto does not look at measurements", "projection, or no --data")
        self._worse(problem)

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        """One evaluation of the denoiser, and one of the worse one, which is told the same."""
        worse, turn = self._worse(problem), object()

        def guided(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            x0_BCXYZ = denoise(y_BCXYZ, sigma_B, given)
            if not self.away.guides(float(sigma_B[0])):
                return self.away.unguided(sigma_B, x0_BCXYZ)
            return self.away.moved(turn, y_BCXYZ, sigma_B, worse(y_BCXYZ, sigma_B, given), x0_BCXYZ, given)

        return guided

    def noted(self) -> Mapping[str, float]:
        """The spread that is left (:meth:`volgen.sampling.guidances._away.Away.noted`)."""
        return self.away.noted()

    def _worse(self, problem: Problem) -> Denoiser:
        weak, expected = problem.weak, problem.expected
        if self.weak and weak is None:
            raise UserError("--guidance", f"auto has nothing of the weak denoiser '{self.weak}'", "samples of a run")
        if expected is None and (weak is None or self.weak_above):
            raise UserError("--guidance", "auto has no worse denoiser to move away from", "samples of a run with a preconditioner")

        def worse(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            if weak is not None and self.asks_weak(float(sigma_B[0])):
                return weak(y_BCXYZ, sigma_B, given)
            assert expected is not None
            return expected(y_BCXYZ, sigma_B)

        return worse
