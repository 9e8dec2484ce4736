"""Coordinates of volumes in principal components, whichever people these are fitted on, from one table of inner products."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
Places = NDArray[np.int64]
ROUNDING = 1e-6
MOST = 24
SMALLEST = 1e-9


class FeatureSpace:
    """Rows of features, ours and real ones together.

    Principal components of some of the rows need inner products of rows alone, so other people can be taken for them at the cost of a
    small matrix: a floor is made of a hundred draws.

    Args:
        rows: [M, values].
        standardise: whether each value is divided by the standard deviation that it has in the rows of ``scale``; for numbers of
            different units. Values that do not vary there are left out.
        scale: rows that say what the scale is.
    """

    def __init__(self, rows: NDArray[np.floating], *, standardise: bool = False, scale: Places | None = None) -> None:
        used = np.asarray(rows, dtype=np.float64) if standardise else np.asarray(rows)
        if standardise:
            known = used if scale is None else used[scale]
            spread = known.std(axis=0)
            used = used[:, spread > SMALLEST] / spread[spread > SMALLEST]
        used = used - used.mean(axis=0, dtype=np.float64).astype(used.dtype)
        self.size = int(used.shape[1])
        self._products: Rows = (used @ used.T).astype(np.float64)
        self._found: dict[tuple[bytes, int], Rows] = {}

    def coordinates(self, fit: Places, most: int) -> Rows:
        """[M, K] coordinates of every row in at most ``most`` components of the rows ``fit``; their total variance there is 1.

        Args:
            fit: rows that the components are fitted on; at least two.
            most: components; fewer where the rows have not as many.
        """
        key = fit.tobytes(), most
        if key not in self._found:  # several comparisons make the same draws
            self._found[key] = self._coordinates(fit, most)
        return self._found[key]

    def _coordinates(self, fit: Places, most: int) -> Rows:
        table = self._products
        to_fit = table[:, fit]
        centred = to_fit - to_fit.mean(axis=1, keepdims=True)
        centred = centred - centred[fit].mean(axis=0)
        values, vectors = np.linalg.eigh(centred[fit])
        keep = np.flatnonzero(values > ROUNDING * max(float(values[-1]), SMALLEST**2))[::-1][:most]
        if not keep.size:
            return np.zeros((len(table), 1))
        found: Rows = centred @ (vectors[:, keep] / np.sqrt(values[keep]))
        found /= np.sqrt(values[keep].sum() / max(len(fit) - 1, 1))
        return found


def components_for(smallest: int, most: int = MOST) -> int:
    """How many components a cohort of ``smallest`` volumes bears: half as many as volumes, 24 at most, 1 at least.

    With as many components as volumes a covariance has no inverse, and a distance of covariances is mostly what chance makes of it.
    """
    return max(min(most, smallest // 2), 1)
