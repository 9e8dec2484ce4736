"""Whether readers tell generated volumes from real ones: hits, false alarms, d' (Green and Swets 1966) and the area under the ROC curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Detection:
    """How one reader, or several taken together, told generated volumes from real ones.

    Attributes:
        hits: share of generated volumes that were called generated.
        false_alarms: share of real volumes that were called generated.
        d_prime: distance of the two kinds in units of the reader's noise; 0 is guessing.
        criterion: bias; above 0 for somebody who rather says real.
        area: chance that a generated volume is called generated with more confidence than a real one; 0.5 is guessing.
    """

    hits: float
    false_alarms: float
    d_prime: float
    criterion: float
    area: float


def detect(confidence_N: Floats, generated_N: NDArray[np.bool_], count_N: Floats | None = None) -> Detection | None:
    """How answers tell generated volumes from real ones.

    Shares are moved away from 0 and 1 by half an answer before they become d' (Hautus 1995), so that everybody has a finite one.

    Args:
        confidence_N: confidence of each answer that a volume is generated, below 0 where it was called real; NaN without an answer.
        generated_N: whether it is.
        count_N: how often each answer counts, once if None.

    Returns:
        What was found; None where one of the two kinds has no answer.
    """
    count = np.where(np.isfinite(confidence_N), np.ones(len(confidence_N)) if count_N is None else count_N, 0.0)
    made, real = count * generated_N, count * ~generated_N
    if not (made.sum() and real.sum()):
        return None
    said = confidence_N > 0
    hit, alarm = float(made @ said), float(real @ said)
    z_hit, z_alarm = (float(norm.ppf((k + 0.5) / (n + 1.0))) for k, n in ((hit, made.sum()), (alarm, real.sum())))
    values, place = np.unique(np.where(count > 0, confidence_N, 0.0), return_inverse=True)
    made_V, real_V = (np.bincount(place, weights=one, minlength=len(values)) for one in (made, real))
    below_V = np.cumsum(real_V) - real_V / 2.0
    area = float(made_V @ below_V) / float(made.sum() * real.sum())
    return Detection(hit / float(made.sum()), alarm / float(real.sum()), z_hit - z_alarm, -(z_hit + z_alarm) / 2.0, area)
