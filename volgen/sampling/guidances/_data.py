"""What guidances that look at data share: how data are asked for, and volumes that agree with them."""

from __future__ import annotations

import itertools

import torch
from pydantic import Field
from torch import Tensor

from volgen.core.conjugate import Limits, explained
from volgen.core.errors import UserError
from volgen.core.protocols import Guidance, Measurement, Noises, Problem, Proximal
from volgen.sampling.guidances import GuidanceConfig

FLOOR = 2e-3
"""Smallest standard deviation of noise that is believed: 1e-3 of the model range. With none, instruments that measure anything twice, or
nothing at all, have no inverse."""


class Solving(GuidanceConfig):
    """How long a guidance looks for volumes that agree with data where no closed form is known: conjugate gradients."""

    iterations: int = Field(default=60, ge=1, le=10_000)
    """Most iterations of one solution."""
    tolerance: float = Field(default=3e-3, gt=0.0, lt=1.0)
    """What may be left of a system's right side, relative to it."""

    @property
    def limits(self) -> Limits:
        """The same as a value."""
        return Limits(self.tolerance, self.iterations)


def measurement(problem: Problem, kind: str) -> Measurement:
    """What was measured.

    Raises:
        UserError: nothing was.
    """
    if problem.measurement is None:
        raise UserError("--guidance", f"{kind} has nothing to agree with", "a measurement: --operator KIND and --data FILE")
    return problem.measurement


class Informed(Guidance):
    """A guidance that has nothing to do without a measurement.

    Attributes:
        kind: what it is called in messages.
    """

    kind: str

    def check(self, problem: Problem) -> None:
        """Wants a measurement.

        Raises:
            UserError: there is none.
        """
        measurement(problem, self.kind)


def noise_of(measured: Measurement) -> float:
    """Standard deviation of the noise that is reckoned with, positive."""
    return max(measured.noise, FLOOR)


def proximal(measured: Measurement, gamma: float, limits: Limits) -> Proximal:
    """``(z, data) -> argmin |x - z|^2 + gamma |data - A x|^2``: in closed form if there is one, else by iteration."""
    operator = measured.operator
    found = operator.closed(gamma)
    if found is not None:
        return found
    return lambda z_BCXYZ, data: explained(operator, z_BCXYZ, data, gamma, limits=limits).x


def white_data(noises: Noises, first: int, like: Tensor) -> Tensor:
    """Standard normal noise of the shape of data (of each part of a complex number), from noises ``first``, ``first`` + 1 ... of a step."""
    count, parts = like.numel() * (2 if like.is_complex() else 1), list[Tensor]()
    numbers = itertools.count(first)
    while sum(part.numel() for part in parts) < count:
        parts.append(noises(next(numbers)).flatten())
    flat = torch.cat(parts)[:count].to(like.real.dtype)
    return torch.view_as_complex(flat.view(*like.shape, 2)) if like.is_complex() else flat.view(like.shape)


def level(sigma_B: Tensor) -> float:
    """The noise level of the one volume that a guidance looks at at a time."""
    return float(sigma_B[0])


def missing(measured: Measurement, x_BCXYZ: Tensor) -> Tensor:
    """What a volume does not explain of the data."""
    return measured.data - measured.operator.apply(x_BCXYZ)
