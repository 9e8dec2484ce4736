"""Kernel distance between two sets of features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def kernel_distance(a: Matrix, b: Matrix, degree: int = 3) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / d + 1)^3 (KID, Binkowski et al. 2018, equation 4).

    Args:
        a: [M, d] features, at least two rows.
        b: [N, d] likewise.
        degree: exponent of the kernel; 1 sees means only.

    Returns:
        The U-statistic: 0 on average for sets of one distribution, and then negative half of the time.
    """
    size = a.shape[1]
    within = []
    for rows in (a, b):
        table = (rows @ rows.T / size + 1.0) ** degree
        within.append((float(table.sum()) - float(np.trace(table))) / (len(rows) * (len(rows) - 1)))
    between = float(((a @ b.T / size + 1.0) ** degree).mean())
    return within[0] + within[1] - 2.0 * between
