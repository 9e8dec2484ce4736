"""Which real people generated volumes are among, and the other way round, by nearest neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def neighbour_shares(generated: Matrix, real: Matrix, nearest: int = 5) -> dict[str, float]:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020) of features [M, d] and [N, d].

    A ball about each row reaches to its ``nearest``-th neighbour of its own set. ``precision``: generated rows in any real ball;
    ``recall``: real rows in any generated ball; ``density``: real balls that a generated row is in, over ``nearest``, on average;
    ``coverage``: real balls with a generated row in them.
    """
    squares = (generated**2).sum(axis=1)[:, None], (real**2).sum(axis=1)[None, :]
    apart = np.sqrt(np.maximum(squares[0] + squares[1] - 2.0 * generated @ real.T, 0.0))
    in_real = apart < _reach(real, nearest)[None, :]
    in_generated = apart < _reach(generated, nearest)[:, None]
    return {
        "precision": float(in_real.any(axis=1).mean()), "recall": float(in_generated.any(axis=0).mean()),
        "density": float(in_real.sum(axis=1).mean()) / nearest, "coverage": float(in_real.any(axis=0).mean()),
    }  # fmt: skip


def _reach(rows: Matrix, nearest: int) -> NDArray[np.float64]:
    squares = (rows**2).sum(axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2.0 * rows @ rows.T, 0.0))
    np.fill_diagonal(apart, 0.0)
    reach: NDArray[np.float64] = np.partition(apart, min(nearest, len(rows) - 1), axis=1)[:, min(nearest, len(rows) - 1)]
    return reach
