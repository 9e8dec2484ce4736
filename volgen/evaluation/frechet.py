"""Frechet distance between two sets of volumes in principal-component features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
ROUNDING = 1e-6  # of the largest eigenvalue: below it a float32 Gram matrix holds nothing but rounding


@dataclass(frozen=True)
class Features:
    """An orthonormal basis of image space.

    Attributes:
        mean: [N] mean of the volumes it was fitted on.
        basis: [K, N] rows of unit length, largest variance first.
    """

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]

    @classmethod
    def fit(cls, volumes: NDArray[np.float32], components: int = 24) -> Features:
        """Principal components of ``volumes`` [M, N], at most M - 1 of them, by the M x M Gram matrix (M is far below N)."""
        mean = volumes.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = volumes - mean
        values, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
        keep = [i for i in np.argsort(values)[::-1][:components] if values[i] > ROUNDING * max(float(values[-1]), 1e-30)]
        basis = (vectors[:, keep] / np.sqrt(values[keep])).T @ centred
        return cls(mean, basis.astype(np.float32))

    def __call__(self, volumes: NDArray[np.float32]) -> Matrix:
        """Coordinates [M, K] of volumes [M, N]."""
        return ((volumes - self.mean) @ self.basis.T).astype(np.float64)


def frechet_distance(a: Matrix, b: Matrix) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson and Landau 1982) of two sets of features [M, K]; 0 for equal sets.

    tr (C_a C_b)^(1/2) is the nuclear norm of A^T B for any factors C_a = A A^T, C_b = B B^T; the centred features are such factors, so no
    matrix root is taken and rank-deficient sets (fewer volumes than features) are exact too.
    """
    centred_a, centred_b = (x - x.mean(axis=0) for x in (a, b))
    factor_a, factor_b = (x / np.sqrt(max(len(x) - 1, 1)) for x in (centred_a, centred_b))
    cross = float(np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum())
    means = float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum())
    return max(means + float((factor_a**2).sum() + (factor_b**2).sum()) - 2 * cross, 0.0)
