"""What acts along the axes one after the other: a matrix for each, A = M_R (x) M_A (x) M_S, and what follows from their singular values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from volgen.core.protocols import Operator, Proximal

NEARLY_SINGULAR = 1e-3
"""Singular values that are smaller, relative to the largest, make numbers of rounding if they are divided by."""
RANK = 1e-6
"""Singular values that are smaller, relative to the largest, are zeros."""


class Separable(Operator):
    """A matrix along each axis.

    Args:
        matrices: float64 [measured, edge] along R, A and S; None where nothing happens.
        device: where it computes.
    """

    def __init__(self, matrices: Sequence[Tensor | None], device: torch.device) -> None:
        self._matrices = [None if matrix is None else matrix.float().to(device) for matrix in matrices]
        self._parts = [None if matrix is None else _parts(matrix, device) for matrix in matrices]

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        """Real data [B, 1, X', Y', Z'], as many voxels along each axis as its matrix has rows."""
        return _along(self._matrices, x_BCXYZ)

    def adjoint(self, data: Tensor) -> Tensor:
        """The transposed matrices."""
        return _along([None if matrix is None else matrix.T for matrix in self._matrices], data)

    def closed(self, gamma: float) -> Proximal | None:
        """A number for each product of singular values; None of an infinite weight where some are so small that rounding would be all."""
        values = torch.ones(1, 1, 1)
        for axis, parts in enumerate(self._parts):
            if parts is not None:
                values = values.to(parts[1].device) * parts[1].view([-1 if other == axis else 1 for other in range(3)])
        if math.isinf(gamma) and float(values.min()) < NEARLY_SINGULAR * float(values.max()):
            return None
        down = [None if parts is None else parts[2].T for parts in self._parts]
        up = [None if parts is None else parts[2] for parts in self._parts]
        left = [None if parts is None else parts[0].T for parts in self._parts]

        def nearest(z_BCXYZ: Tensor, data: Tensor) -> Tensor:
            # With A = U s V*, what is seen of z moves to where the data have it; the rest stays.
            within, wanted = _along(down, z_BCXYZ), _along(left, data)
            found = wanted / values if math.isinf(gamma) else (within + gamma * values * wanted) / (1.0 + gamma * values**2)
            return z_BCXYZ + _along(up, found - within)

        return nearest


def _parts(matrix: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """U [m, r], s [r], V [n, r]."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = values > RANK * values[0]
    u, s, v = left[:, kept], values[kept], right[kept].T
    return u.float().to(device), s.float().to(device), v.float().contiguous().to(device)


def _along(matrices: Sequence[Tensor | None], x_BCXYZ: Tensor) -> Tensor:
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            x_BCXYZ = torch.tensordot(x_BCXYZ, matrix, dims=([2 + axis], [1])).movedim(-1, 2 + axis)
    return x_BCXYZ
