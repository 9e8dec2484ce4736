"""Agreement of readers on marks 1, 2, ... of the same volumes: weighted kappa (Cohen 1968) and alpha (Krippendorff 2011)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weighting = Literal["none", "linear", "quadratic"]
"""How much of a disagreement a distance of d marks is: all of it, d, or d^2."""
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
LARGEST_GAP = 1e-12
"""Disagreement by chance below which marks count as all alike."""


def kappa(first: Sequence[float] | Floats, second: Sequence[float] | Floats, marks: int, weighting: Weighting) -> float | None:
    """Weighted kappa (Cohen 1968, equation 4) of two lists of marks of the same things.

    Args:
        first: marks from 1 to ``marks``; NaN where there is none.
        second: the other marks, of the same things in the same order.
        marks: the highest mark.
        weighting: how much a distance counts.

    Returns:
        1 for equal lists, 0 for what chance makes; None where nothing is marked twice or chance cannot disagree, because all marks are
        one and the same: there is nothing to compare agreement with then.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    both = np.isfinite(one) & np.isfinite(other)
    if not both.any():
        return None
    table_KK = np.zeros((marks, marks))
    np.add.at(table_KK, (one[both].astype(int) - 1, other[both].astype(int) - 1), 1.0)
    distance_KK = np.abs(np.subtract.outer(np.arange(marks), np.arange(marks))).astype(np.float64)
    weight_KK = {"none": (distance_KK > 0).astype(np.float64), "linear": distance_KK, "quadratic": distance_KK**2}[weighting]
    expected_KK = np.outer(table_KK.sum(axis=1), table_KK.sum(axis=0)) / table_KK.sum()
    chance = float((weight_KK * expected_KK).sum())
    return None if chance < LARGEST_GAP else 1.0 - float((weight_KK * table_KK).sum()) / chance


def alpha(marks_RU: Floats, marks: int, reader_R: Floats | None = None, volume_U: Floats | None = None) -> float | None:
    """Krippendorff's alpha of ordinal marks: 1 - observed / expected disagreement (Krippendorff 2011).

    How often each reader and each volume counts makes it fit for a bootstrap: a reader who was drawn twice is not compared with
    themselves, who would agree.

    Args:
        marks_RU: marks from 1 to ``marks`` of readers and volumes; NaN where there is none.
        marks: the highest mark.
        reader_R: how often each reader counts, once if None.
        volume_U: how often each volume counts, once if None.

    Returns:
        At most 1; None where no volume has marks of two readers, or all marks are one and the same.
    """
    count_R = np.ones(len(marks_RU)) if reader_R is None else reader_R
    count_U = np.ones(marks_RU.shape[1]) if volume_U is None else volume_U
    there_RU = np.isfinite(marks_RU)
    hot_RUK = (marks_RU[..., None] == np.arange(1, marks + 1)).astype(np.float64)
    total_U = count_R @ there_RU
    pairs_U = total_U**2 - count_R**2 @ there_RU  # of different readers
    sums_UK = np.einsum("r,ruk->uk", count_R, hot_RUK)
    own_UK = np.einsum("r,ruk->uk", count_R**2, hot_RUK)
    share_U = np.divide(count_U * total_U, pairs_U, out=np.zeros_like(total_U), where=pairs_U > 0)
    together_KK = np.einsum("u,uk,ul->kl", share_U, sums_UK, sums_UK) - np.diag(share_U @ own_UK)
    values_K = together_KK.sum(axis=0)
    total = float(values_K.sum())
    if total <= 1.0:
        return None
    ranks_K = np.cumsum(values_K) - values_K / 2.0  # the ordinal distance: marks given between two, and half of those given to either
    distance_KK = np.subtract.outer(ranks_K, ranks_K) ** 2
    observed = float((together_KK * distance_KK).sum())
    expected = float(values_K @ distance_KK @ values_K) / (total - 1.0)
    return None if expected < LARGEST_GAP else 1.0 - observed / expected
