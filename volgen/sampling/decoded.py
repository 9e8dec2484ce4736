"""Measurements of volumes where what is on its way are latents, of which a decoder makes volumes.

An instrument A sees dec(z), which is not linear in the latent z. So at each noise level it is replaced by what it is near the latent z0
that the denoiser expects,

    A dec(z) ~ A dec(z0) + A J (z - z0),      J = d dec / dz at z0,

the first step of Gauss and Newton: a problem whose operator is A J, with the adjoint J* A*, and whose data are y - A dec(z0) + A J z0. What
is a guidance of volumes is then one of latents. Behind an affine decoder nothing is lost by that. J and J* are products with derivatives:
each costs about what decoding does, and no matrix is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Guidance, Measurement, Noises, Operator, Problem, Sampler, Solver

Decode = Callable[[Tensor], Tensor]
"""``z_BCxyz -> x_BCXYZ``: volumes of latents, with a derivative."""


class Tangent(Operator):
    """What an instrument is of latents near one: A J.

    Args:
        operator: A, of volumes.
        decode: makes volumes of latents.
        z_BCxyz: the latent, B = 1.

    Attributes:
        x_BCXYZ: its volume.
    """

    def __init__(self, operator: Operator, decode: Decode, z_BCxyz: Tensor) -> None:
        self._operator = operator
        with torch.enable_grad():
            self._z = z_BCxyz.detach().requires_grad_()
            self._x = decode(self._z)
            # J* u is linear in u, whatever u is; its own derivative along v is J v.
            self._u = torch.zeros_like(self._x, requires_grad=True)
            (self._pulled,) = torch.autograd.grad(self._x, self._z, self._u, create_graph=True)
        self.x_BCXYZ = self._x.detach()

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        """A J v, of a change v of the latent."""
        (change,) = torch.autograd.grad(self._pulled, self._u, x_BCXYZ, retain_graph=True)
        return self._operator.apply(change)

    def adjoint(self, data: Tensor) -> Tensor:
        """J* A* d."""
        (back,) = torch.autograd.grad(self._x, self._z, self._operator.adjoint(data), retain_graph=True)
        return back

    def seen(self, data: Tensor) -> Tensor:
        """What the instrument says."""
        return self._operator.seen(data)


class Curved(Operator):
    """An instrument of the volumes of latents, A dec(z); its adjoint is that of its derivative at the latent that it saw last.

    Args:
        operator: A, of volumes.
        decode: makes volumes of latents.
    """

    def __init__(self, operator: Operator, decode: Decode) -> None:
        self._operator, self._decode = operator, decode
        self._last: tuple[Tensor, Tensor] | None = None

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        """What the instrument gives of a latent, A dec(z)."""
        with torch.enable_grad():
            z_BCxyz = x_BCXYZ.detach().requires_grad_()
            self._last = z_BCxyz, self._decode(z_BCxyz)
        return self._operator.apply(self._last[1].detach())

    def adjoint(self, data: Tensor) -> Tensor:
        """J* A* d; once for each latent."""
        assert self._last is not None, "there is no derivative before a latent was seen"
        (z_BCxyz, x_BCXYZ), self._last = self._last, None
        (back,) = torch.autograd.grad(x_BCXYZ, z_BCxyz, self._operator.adjoint(data))
        return back

    def seen(self, data: Tensor) -> Tensor:
        """What the instrument says."""
        return self._operator.seen(data)


class Behind(Guidance):
    """A guidance of volumes, where samples are latents.

    Args:
        inner: the guidance of volumes.
        decode: makes volumes of latents.
    """

    def __init__(self, inner: Guidance, decode: Decode) -> None:
        self._inner, self._decode = inner, decode
        self.differentiates, self.renoises, self.whole = inner.differentiates, inner.renoises, inner.whole
        self.asks, self.weak, self.weak_mirrored = inner.asks, inner.weak, inner.weak_mirrored

    def asks_weak(self, sigma: float) -> bool:
        """Whether the guidance of volumes asks it."""
        return self._inner.asks_weak(sigma)

    def check(self, problem: Problem) -> None:
        """Looks at the problem as the guidance of volumes does.

        Raises:
            UserError: it cannot be had with that guidance, or of latents.
        """
        if self._inner.moves:
            found = "moves samples themselves to where they explain the data, and the samples of this run are latents"
            raise UserError("--guidance", found, "one that changes what is expected: resample, gauss, dps, pigdm, ddnm, diffpir or daps")
        self._inner.check(problem)

    def prior(self, problem: Problem, sigma: float, noises: Noises) -> Tensor:
        """What the guidance begins with, with the instrument near what is expected of the noise that it would begin with without data."""
        if self._inner.curved or problem.expected is None:
            return self._inner.prior(problem, sigma, noises)
        z_BCxyz = problem.prior(noises(0), sigma)
        near = self._near(problem, problem.expected(z_BCxyz, z_BCxyz.new_full((len(z_BCxyz),), sigma)))
        return self._inner.prior(near, sigma, noises)

    def guide(self, denoise: Denoiser, problem: Problem, noises: Noises) -> Denoiser:
        """The guided denoiser, with the instrument near what the denoiser expects."""
        if self._inner.curved:
            return self._inner.guide(denoise, self._curved(problem), noises)

        def guided(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
            with torch.no_grad():
                expected = denoise(y_BCXYZ, sigma_B, given)

            known = _Known(denoise, y_BCXYZ, sigma_B, expected)
            return self._inner.guide(known, self._near(problem, expected), noises)(y_BCXYZ, sigma_B, given)

        return guided

    def solver(self, sampler: Sampler, problem: Problem, noises: Noises) -> Solver:
        """What takes a step of one latent."""
        return self._inner.solver(sampler, self._curved(problem), noises)

    def noted(self) -> Mapping[str, float]:
        """What the guidance of volumes has noted."""
        return self._inner.noted()

    def _near(self, problem: Problem, z_BCxyz: Tensor) -> Problem:
        measured = problem.measurement
        if measured is None:
            return problem
        tangent = Tangent(measured.operator, self._decode, z_BCxyz)
        data = measured.data - measured.operator.apply(tangent.x_BCXYZ) + tangent.apply(z_BCxyz.detach())
        return replace(problem, measurement=Measurement(tangent, data, measured.noise))

    def _curved(self, problem: Problem) -> Problem:
        measured = problem.measurement
        if measured is None:
            return problem
        return replace(problem, measurement=replace(measured, operator=Curved(measured.operator, self._decode)))


@dataclass(frozen=True)
class _Known:
    """A denoiser that has been asked about one state already.

    Attributes:
        denoise: the denoiser.
        asked: the state.
        level: its noise level.
        expected: what it said.
    """

    denoise: Denoiser
    asked: Tensor
    level: Tensor
    expected: Tensor

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        """What it said, or says."""
        return self.expected if y_BCXYZ is self.asked and sigma_B is self.level else self.denoise(y_BCXYZ, sigma_B, given)
