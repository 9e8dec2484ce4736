"""What measures of a cohort share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def deviation(values: NDArray[np.float64]) -> float | None:
    """The standard deviation of a sample; None of fewer than two values."""
    return float(values.std(ddof=1)) if len(values) > 1 else None
