"""What data change in what is expected, where the spread around it is that of a fitted Gaussian.

    D_y = D + C A* (A C A* + s_y^2)^-1 (y - A D)

is E[x0 | x, y] if x0 given x is N(D, C): for a Gaussian prior exactly so. Boys et al. 2023 (tweedie moment projected diffusions) take C
from gradients of the denoiser; here it is what the preconditioner was fitted to, and costs none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from volgen.core.conjugate import Limits, Linear, Woodbury, corrected, moved
from volgen.core.errors import UserError
from volgen.core.protocols import Covariance, Measurement, Noises, Problem
from volgen.core.rng import normal
from volgen.sampling.guidances._data import missing, noise_of, white_data

KEPT_BYTES = 2 << 30
"""Largest images of a Gaussian's directions that are kept to make iterations fewer."""

RELATIVE = 1e-3
"""Noise of data that have none, relative to the noise level: what the instrument sees twice, or not at all, has no inverse without."""


@dataclass(frozen=True)
class _Seen:
    """What the instrument makes of the directions along which volumes spread most."""

    measurement: Measurement
    woodbury: Woodbury | None
    row: float
    """Mean squared norm of a row of A."""


class Spread:
    """Makes corrections; what the instrument makes of all volumes, or of the Gaussian's directions, is computed once.

    Args:
        limits: when iterations stop.
        share: variance of what a denoiser leaves open, over that of the fitted Gaussian.
    """

    def __init__(self, limits: Limits, share: float = 1.0) -> None:
        self._limits, self._share = limits, share
        self._seen: _Seen | None = None
        self._asked: tuple[Measurement, float] | None = None

    def correction(self, problem: Problem, residual: Tensor, sigma: float) -> Tensor:
        """C A* (A C A* + s_y^2)^-1 residual, [1, C, X, Y, Z].

        Args:
            problem: with a measurement, and a covariance.
            residual: shaped like the data.
            sigma: noise level at which C is known; infinite for that of clean volumes.
        """
        measured = problem.measurement
        assert measured is not None, "there are data"
        covariance, noise, operator = covariance_of(problem), noise_of(measured), measured.operator
        share, strength = 1.0 if math.isinf(sigma) else self._share, self._strength(measured)
        known = share * strength / noise**2 + (0.0 if math.isinf(sigma) else sigma**-2)
        there = math.inf if known == 0.0 else known**-0.5

        def near(x_BCXYZ: Tensor) -> Tensor:  # (C^-1 + strength / noise^2)^-1, with C = share (S^-1 + sigma^-2)^-1
            return share * covariance.times(x_BCXYZ, there)

        return moved(operator, near, strength, residual, noise, limits=self._limits).x

    def left(self, problem: Problem) -> Covariance:
        """How clean volumes spread around what a denoiser expects of them; without noise to see through, as those of the prior."""
        covariance = covariance_of(problem)
        return covariance if self._share == 1.0 else _Narrowed(covariance, self._share)

    def noisy(self, problem: Problem, residual: Tensor, sigma: float) -> Tensor:
        """S_s A* (A S_s A*)^-1 residual, S_s = S + s^2: by how much volumes under noise are moved by data under the same noise."""
        measured = problem.measurement
        assert measured is not None, "there are data"
        covariance, noise = covariance_of(problem), RELATIVE * sigma
        near = self._near(measured, covariance, sigma**2, noise)

        def times(x_BCXYZ: Tensor) -> Tensor:
            return covariance.times(x_BCXYZ, math.inf) + sigma**2 * x_BCXYZ

        return corrected(measured.operator, times, residual, noise, limits=self._limits, precondition=near).x_BCXYZ

    def start(self, problem: Problem, sigma: float, noises: Noises) -> Tensor:
        """A sample of what volumes that agree with the data look like under noise of ``sigma``, if they are of the Gaussian.

        x = x0 + s z is drawn of the prior (noise 0); of the clean volume in it, one is drawn (noises 1 and 2); and what the data, drawn
        anew for it (noises from 3), would have to be moved by, moves x as much as it would move x0 (Matheron's rule).
        """
        x_BCXYZ = problem.prior(noises(0), sigma)
        if problem.measurement is None:
            return x_BCXYZ
        assert problem.expected is not None, "who has a covariance says what is expected"
        x0 = problem.expected(x_BCXYZ, x_BCXYZ.new_full((1,), sigma)) + covariance_of(problem).drawn(noises(1), noises(2), sigma)
        return x_BCXYZ + self.correction(problem, redrawn(problem.measurement, x0, noises, 3), math.inf)

    def _strength(self, measured: Measurement) -> float:
        """The mean eigenvalue of A* A, about."""
        if self._asked is None or self._asked[0] is not measured:
            like = measured.operator.adjoint(torch.zeros_like(measured.data))
            probe = normal(like.shape[1:], 0, "rows")[None].to(like)
            self._asked = measured, float(torch.linalg.vector_norm(measured.operator.apply(probe)) ** 2) / probe.numel()
        return self._asked[1]

    def _near(self, measured: Measurement, covariance: Covariance, added: float, noise: float) -> Linear | None:
        if self._seen is None or self._seen.measurement is not measured:
            self._seen = _look(measured, covariance)
        if self._seen.woodbury is None:
            return None
        variances, rest = covariance.strengths(math.inf)
        return self._seen.woodbury.inverse(variances, self._seen.row * (rest + added) + noise**2)


@dataclass(frozen=True)
class _Narrowed(Covariance):
    """A covariance whose variances under noise are some share of another's."""

    whole: Covariance
    share: float

    def times(self, x_BCXYZ: Tensor, sigma: float) -> Tensor:
        return self.whole.times(x_BCXYZ, sigma) * self._at(sigma)

    def drawn(self, first_BCXYZ: Tensor, second_BCXYZ: Tensor, sigma: float) -> Tensor:
        return self.whole.drawn(first_BCXYZ, second_BCXYZ, sigma) * math.sqrt(self._at(sigma))

    @property
    def directions(self) -> Tensor:
        return self.whole.directions

    def strengths(self, sigma: float) -> tuple[Tensor, float]:
        variances, rest = self.whole.strengths(sigma)
        return variances * self._at(sigma), rest * self._at(sigma)

    def _at(self, sigma: float) -> float:
        return 1.0 if math.isinf(sigma) else self.share


def covariance_of(problem: Problem) -> Covariance:
    """How volumes spread.

    Raises:
        UserError: nothing is known of it.
    """
    if problem.covariance is None or problem.expected is None:
        expected = "a run whose preconditioner is the denoiser of some distribution, such as gaussian"
        raise UserError("--guidance", "needs to know how volumes spread, and the run's preconditioner does not say", expected)
    return problem.covariance


def redrawn(measured: Measurement, x_BCXYZ: Tensor, noises: Noises, first: int) -> Tensor:
    """What is missing in data of a volume that would have been measured with noise of their own (noises from ``first``)."""
    return missing(measured, x_BCXYZ) + noise_of(measured) * white_data(noises, first, measured.data)


def _look(measured: Measurement, covariance: Covariance) -> _Seen:
    directions, size = covariance.directions, measured.data.numel() * measured.data.element_size()
    if not len(directions) or len(directions) * size > KEPT_BYTES:
        return _Seen(measured, None, 0.0)
    operator = measured.operator
    probe = normal(directions.shape[1:], 0, "rows")[None].to(directions)
    count = measured.data.numel() * (2 if measured.data.is_complex() else 1)
    row = float(torch.linalg.vector_norm(operator.apply(probe)) ** 2) / count
    return _Seen(measured, Woodbury(torch.cat([operator.apply(one[None]) for one in directions])), row)
