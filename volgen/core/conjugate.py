"""Volumes that agree with data, by iteration: preconditioned conjugate gradients (Hestenes & Stiefel 1952) on linear maps of tensors.

Operators are linear over the real numbers: volumes are real, data may be complex. So inner products are Re<a, b>, in which A and its
adjoint are each other's, and a complex number is two real ones. Every element of a batch iterates by itself: it stops where it has
converged, and no number of it depends on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from volgen.core.protocols import Operator

Linear = Callable[[Tensor], Tensor]
"""A symmetric positive map from tensors [B, ...] to tensors of the same shape, each element of the batch by itself."""


@dataclass(frozen=True)
class Limits:
    """When an iteration ends.

    Attributes:
        tolerance: largest norm of what is left of the right side, relative to the right side's, positive.
        iterations: most applications of the map, after which the result is what it is.
    """

    tolerance: float = 3e-3
    iterations: int = 60


@dataclass(frozen=True)
class Iterated:
    """What an iteration has come to.

    Attributes:
        x: the solution, shaped like the right side.
        iterations: how often the map was applied, but for what a start costs.
        left_B: norm of what is left of the right side, relative to the right side's; 0 where that is 0.
    """

    x: Tensor
    iterations: int
    left_B: Tensor


def conjugate_gradients(
    apply: Linear, right: Tensor, *, limits: Limits = Limits(), start: Tensor | None = None, precondition: Linear | None = None
) -> Iterated:
    """Solves ``apply(x) = right``.

    Args:
        apply: symmetric and not negative in Re<a, b>.
        right: the right side, [B, ...], real or complex.
        limits: when to stop.
        start: what to begin with, such as the solution of a similar system; zeros if None.
        precondition: about the inverse of ``apply``, symmetric and positive; nothing if None.
    """
    x, rest = (torch.zeros_like(right), right) if start is None else (start, right - apply(start))
    nearest = _itself if precondition is None else precondition
    return _iterated(lambda towards, _: apply(towards), x, rest, nearest, limits, norm(right))


def _iterated(
    image_of: Callable[[Tensor, Tensor], Tensor], x: Tensor, rest: Tensor, precondition: Linear, limits: Limits, size_B: Tensor | None
) -> Iterated:
    """The one loop: x moves along conjugate directions until little of the right side is left.

    Args:
        image_of: what the map makes of a direction d, given d and its companion.
        x: what to begin with.
        rest: what it leaves of the right side.
        precondition: P, symmetric and positive.
        limits: when to stop.
        size_B: norm of the right side, with which that of what is left is compared. None: both are in units of P, sqrt(Re<r, P r>), and
            the companion of d is P^-1 d, which costs no application of anything; else the companion is d itself.
    """
    in_units_of_p = size_B is None
    near = precondition(rest)
    towards, along_B, count = near, inner(rest, near), 0
    under = rest if in_units_of_p else towards
    left_B = along_B.clamp_min(0.0).sqrt() if in_units_of_p else norm(rest)
    size_B = left_B if size_B is None else size_B
    open_B = left_B > limits.tolerance * size_B
    while count < limits.iterations and bool(open_B.any()):
        image = image_of(towards, under)
        count += 1
        curve_B = inner(towards, image)
        open_B = open_B & (curve_B > 0)  # rounding alone makes it otherwise: nothing is left to gain
        step_B = torch.where(open_B, along_B / curve_B, 0.0)
        x, rest = x + _over(step_B, x) * towards, rest - _over(step_B, rest) * image
        near = precondition(rest)
        before_B, along_B = along_B, inner(rest, near)
        left_B = along_B.clamp_min(0.0).sqrt() if in_units_of_p else norm(rest)
        open_B = open_B & (left_B > limits.tolerance * size_B)
        more_B = torch.where(open_B, along_B / before_B, 0.0)
        towards = near + _over(more_B, near) * towards
        under = rest + _over(more_B, rest) * under if in_units_of_p else towards
    return Iterated(x, count, torch.where(size_B > 0, left_B / size_B, 0.0))


def explained(
    operator: Operator,
    z_BCXYZ: Tensor,
    data: Tensor,
    gamma: float,
    *,
    limits: Limits = Limits(1e-4),
    start: Tensor | None = None,
) -> Iterated:
    """Argmin over x of ``|x - z|^2 + gamma |data - A x|^2``: what ``operator.closed(gamma)`` gives, for operators that have no closed form.

    Args:
        operator: A.
        z_BCXYZ: where x would be without data.
        data: what was measured, [B, ...].
        gamma: positive; infinite for z + A^+ (data - A z), of which iterations find what is seen well first.
        limits: when to stop; ``tolerance`` is relative to A* (data - A z).
        start: a volume to begin with; z if None.
    """
    shift = 0.0 if math.isinf(gamma) else 1.0 / gamma

    def apply(x_BCXYZ: Tensor) -> Tensor:
        return operator.adjoint(operator.apply(x_BCXYZ)) + shift * x_BCXYZ

    begin = None if start is None else start - z_BCXYZ
    found = conjugate_gradients(apply, operator.adjoint(data - operator.apply(z_BCXYZ)), limits=limits, start=begin)
    return Iterated(z_BCXYZ + found.x, found.iterations, found.left_B)


@dataclass(frozen=True)
class Corrected:
    """What data change in a Gaussian's mean.

    Attributes:
        x_BCXYZ: C A* u, to be added to the mean.
        data: u, a good start for the next system that is like this one.
        iterations: how often A C A* was applied, but for what a start costs.
        left_B: norm of what is left of the right side, relative to the right side's.
    """

    x_BCXYZ: Tensor
    data: Tensor
    iterations: int
    left_B: Tensor


def corrected(
    operator: Operator,
    covariance: Linear,
    residual: Tensor,
    noise: float,
    *,
    limits: Limits = Limits(),
    start: Tensor | None = None,
    precondition: Linear | None = None,
) -> Corrected:
    """C A* u with (A C A* + noise^2 I) u = residual: if ``residual`` is data - A m, by how much data move the mean m of N(m, C).

    Args:
        operator: A.
        covariance: C, of volumes.
        residual: [B, ...], shaped like data.
        noise: standard deviation of the data's noise (of each part of a complex number), positive: A C A* alone need not have an inverse.
        limits: when to stop.
        start: u to begin with.
        precondition: see :func:`conjugate_gradients`; :class:`Woodbury` makes one of a covariance of low rank.
    """

    def apply(data: Tensor) -> Tensor:
        return operator.apply(covariance(operator.adjoint(data))) + noise**2 * data

    found = conjugate_gradients(apply, residual, limits=limits, start=start, precondition=precondition)
    return Corrected(covariance(operator.adjoint(found.x)), found.x, found.iterations, found.left_B)


def moved(
    operator: Operator, near: Linear, strength: float, residual: Tensor, noise: float, *, limits: Limits = Limits()
) -> Iterated:  # fmt: skip
    """(C^-1 + A* A / noise^2)^-1 A* residual / noise^2: by how much data move the mean of N(m, C), as :func:`corrected`, of volumes.

    What is preconditioned with is what C would be if the instrument saw everything with the same strength, P = (C^-1 + strength /
    noise^2)^-1. Where C is known as a function of a noise level this is another value of it, and C^-1 = P^-1 - strength / noise^2 is never
    applied: each direction d comes with P^-1 d. So iterations are few however different the variances of C are.

    Args:
        operator: A.
        near: P, symmetric and positive.
        strength: about the mean eigenvalue of A* A.
        residual: data - A m, [B, ...].
        noise: standard deviation of the data's noise (of each part of a complex number), positive.
        limits: when to stop; ``tolerance`` is that of the right side in units of P, which are those of what is not known.
    """
    rest = operator.adjoint(residual) / noise**2

    def image_of(towards: Tensor, under: Tensor) -> Tensor:
        return under + (operator.adjoint(operator.apply(towards)) - strength * towards) / noise**2

    return _iterated(image_of, torch.zeros_like(rest), rest, near, limits, None)


class Woodbury:
    """Inverses of ``floor I + sum_j weight_j a_j a_j*``, of a few directions a_j in the space of data (Woodbury 1950).

    Their inner products are computed once, so that each inverse costs two passes through them.

    Args:
        directions: [r, ...], shaped like data but for the first axis: what the instrument makes of a covariance's components.
    """

    def __init__(self, directions: Tensor) -> None:
        self._directions = directions
        self._gram = torch.stack([inner(directions, one[None].expand_as(directions)) for one in directions]).double()

    def inverse(self, weights_r: Tensor, floor: float) -> Linear:
        """The inverse, as a map of data [B, ...].

        Args:
            weights_r: variance along each direction; 0 for one that has no part.
            floor: variance of all the rest, positive.
        """
        root_r = weights_r.to(self._gram).clamp_min(0.0).sqrt()
        inside = floor * torch.eye(len(root_r), dtype=self._gram.dtype, device=self._gram.device) + root_r * self._gram * root_r[:, None]
        factor, flat = torch.linalg.cholesky(inside), _real(self._directions)

        def apply(data: Tensor) -> Tensor:
            rest = _real(data)
            along_rB = root_r[:, None] * (flat @ rest.T).double()
            share_rB = (root_r[:, None] * torch.cholesky_solve(along_rB, factor)).to(rest.dtype)
            return _like((rest - share_rB.T @ flat) / floor, data)

        return apply


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Re<a, b> of each element of a batch, [B]."""
    return (_real(a) * _real(b)).sum(dim=1)


def norm(a: Tensor) -> Tensor:
    """Root of Re<a, a> of each element of a batch, [B]."""
    size: Tensor = torch.linalg.vector_norm(_real(a), dim=1)
    return size


def _real(a: Tensor) -> Tensor:
    """Real numbers [B, n] of anything [B, ...]: a complex number is two."""
    return (torch.view_as_real(a) if a.is_complex() else a).flatten(1)


def _like(flat: Tensor, data: Tensor) -> Tensor:
    """Data of the shape and type of some, from their real numbers."""
    return torch.view_as_complex(flat.reshape(*data.shape, 2)) if data.is_complex() else flat.reshape(data.shape)


def _itself(a: Tensor) -> Tensor:
    return a


def _over(value_B: Tensor, like: Tensor) -> Tensor:
    return value_B.view(-1, *[1] * (like.ndim - 1))
