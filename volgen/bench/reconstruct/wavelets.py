"""Compressed sensing: the volume that explains the data and has few wavelet coefficients (Lustig, Donoho & Pauly 2007).

    argmin over u of |A u - d|^2 / 2 + weight |W u|_1

by FISTA (Beck & Teboulle 2009), with Daubechies' orthogonal wavelets of four vanishing moments. The grid of the wavelets is moved at random
in each iteration (Figueiredo & Nowak 2003), as reconstructions in use do: edges of blocks do not stay anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from volgen.core.protocols import Operator
from volgen.core.rng import generator

FILTER = (
    0.23037781330885523, 0.7148465705525415, 0.6308807679295904, -0.02798376941698385,
    -0.18703481171888114, 0.030841381835986965, 0.032883011666982945, -0.010597401784997278,
)  # fmt: skip
"""Low-pass filter of Daubechies' wavelet of four vanishing moments."""
LEVELS = 3
ITERATIONS = 60
POWER_STEPS = 12


def orthogonal(edge: int) -> Tensor:
    """One level of the transform along an axis of a period of ``edge`` voxels, an even number: an orthogonal matrix, low pass first."""
    matrix = torch.zeros(edge, edge)
    for row in range(edge // 2):
        for tap, value in enumerate(FILTER):
            column = (2 * row + tap) % edge
            matrix[row, column] += value
            matrix[edge // 2 + row, column] += (-1) ** tap * FILTER[-1 - tap]
    return matrix


def shrunk(u_BCXYZ: Tensor, by: float, shift: tuple[int, int, int]) -> Tensor:
    """Volumes whose wavelet coefficients, but for the coarsest means, are nearer to 0 by ``by``, on a grid of wavelets that is moved."""
    edges = u_BCXYZ.shape[-3:]
    more = [-edge % 2**LEVELS for edge in edges]
    rolled = pad(u_BCXYZ, [0, more[2], 0, more[1], 0, more[0]]).roll(shift, (-3, -2, -1))
    matrices = [
        [orthogonal((edge + added) >> level).to(u_BCXYZ) for level in range(LEVELS)] for edge, added in zip(edges, more, strict=True)
    ]
    x, y, z = edges
    return _level(rolled, by, matrices, 0).roll([-step for step in shift], (-3, -2, -1))[..., :x, :y, :z]


def _level(low: Tensor, by: float, matrices: Sequence[Sequence[Tensor]], level: int) -> Tensor:
    if level == LEVELS:
        return low
    mine = [axis[level] for axis in matrices]
    bands = _turned(low, mine)
    x, y, z = (edge // 2 for edge in bands.shape[-3:])
    coarse = _level(bands[..., :x, :y, :z], by, matrices, level + 1)
    bands = bands.sign() * (bands.abs() - by).clamp_min(0.0)
    bands[..., :x, :y, :z] = coarse
    return _turned(bands, [matrix.T for matrix in mine])


def _turned(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Each of the last three axes multiplied with its matrix."""
    for matrix in matrices:
        x = torch.tensordot(x, matrix, dims=([-3], [1]))  # the axis comes last, so the next one is third from the end
    return x


def sparsest(operator: Operator, data: Tensor, weight: float, shape: tuple[int, ...], *, iterations: int = ITERATIONS) -> Tensor:
    """The volume [B, 1, X, Y, Z] of the equation of this module.

    Args:
        operator: A.
        data: d.
        weight: how much wavelet coefficients cost.
        shape: what the volume is shaped like, [B, 1, X, Y, Z].
        iterations: steps of FISTA.
    """
    u = torch.zeros(shape, device=data.device)
    step = 1.0 / _largest(operator, u)
    ahead, momentum, draws = u, 1.0, generator(0, "wavelets")
    for _ in range(iterations):
        shift = torch.randint(2**LEVELS, (3,), generator=draws).tolist()
        gradient = operator.adjoint(operator.apply(ahead) - data)
        before, u = u, shrunk(ahead - step * gradient, step * weight, (shift[0], shift[1], shift[2]))
        after = (1.0 + (1.0 + 4.0 * momentum**2) ** 0.5) / 2.0
        ahead, momentum = u + (momentum - 1.0) / after * (u - before), after
    return u


def _largest(operator: Operator, like: Tensor) -> float:
    """A bound of the largest eigenvalue of A* A."""
    x = torch.randn(like.shape, generator=generator(0, "largest")).to(like.device)
    for _ in range(POWER_STEPS):
        x = operator.adjoint(operator.apply(x / torch.linalg.vector_norm(x)))
    return 1.05 * float(torch.linalg.vector_norm(x))
