"""How far a mean over people would move with other people."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000


def interval(values_P: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % interval of the mean of one value [P] per person, by resampling people (percentiles; Efron and Tibshirani 1993, chapter 13).

    For a paired comparison the values are differences. With fewer than about ten people it is somewhat too narrow.
    """
    generator = np.random.default_rng(seed)
    means = [values_P[generator.integers(len(values_P), size=len(values_P))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
