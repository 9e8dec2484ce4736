"""Membership inference: can whoever holds the model tell who was trained on? By thresholds of the loss, or with shadow models.

Legend: P people, L noise levels, S shadow models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import binomtest, mannwhitneyu, rankdata

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
FALSE_POSITIVES = (0.001, 0.01, 0.1)
NEXT = 1e-9
COMBINED, LIRA = "all levels", "shadow models (LiRA)"
CURVE_POINTS = 200


@dataclass(frozen=True)
class Shadows:
    """What other models, trained by the same recipe on other random people, say of the same people.

    Attributes:
        losses_SPL: positive.
        inside_SP: who each of them was trained on.
    """

    losses_SPL: Array
    inside_SP: Bools


def statistics(losses_PL: Array, names: list[str], shadows: Shadows | None = None) -> dict[str, Array]:
    """Scores [P] by statistic: higher where a person seems to have been trained on. They do not know who was.

    Without shadow models: the negative loss at each noise level (Yeom et al. 2018; Matsumoto et al. 2023 for diffusion), and its mean
    rank over levels. With shadow models: the likelihood ratio of :func:`likelihood_ratio`, and that mean rank.
    """
    ranks = np.mean([rankdata(-losses) for losses in losses_PL.T], axis=0)
    if shadows is not None:
        return {LIRA: likelihood_ratio(losses_PL, shadows), COMBINED: ranks}
    single = {name: -losses for name, losses in zip(names, losses_PL.T, strict=True)}
    return single if len(single) == 1 else {**single, COMBINED: ranks}


def likelihood_ratio(losses_PL: Array, shadows: Shadows) -> Array:
    """The log-likelihood ratio log p(loss | trained on) - log p(loss | not), over all noise levels, up to a constant.

    LiRA (Carlini et al. 2022) with few shadow models: their losses are fitted by log loss = person + model + gain * (trained on) + normal
    rest, level by level. What Carlini et al. estimate for each person (both means and variances) would take hundreds of models; here the
    person has one mean of their own, and gain and variance are everybody's, as in their own variant of fixed variances.
    """
    target, table = np.log(losses_PL), np.log(shadows.losses_SPL)
    inside = shadows.inside_SP.astype(np.float64)
    centred = _centred(inside)
    information = float((centred**2).sum())
    scores = np.zeros(len(target))
    for level in range(target.shape[1]):
        own = table[:, :, level]
        gain = float((centred * _centred(own)).sum()) / information if information > 0.0 else 0.0
        plain = own - gain * inside
        rest = _centred(plain)
        free = max((own.shape[0] - 1) * (own.shape[1] - 1) - 1, 1)
        variance = max(float((rest**2).sum()) / free, 1e-12)
        # The person's own mean comes from S models, whose errors a new model's loss has beside its own.
        away = target[:, level] - plain.mean(axis=0)
        scores += min(gain, 0.0) * (away - np.median(away)) / (variance * (1.0 + 1.0 / own.shape[0]))
    return scores


def measure(scores_P: Array, inside_P: Bools, confidence: float) -> dict[str, Any]:
    """How well scores tell the trained-on from the others.

    Args:
        scores_P: higher where a person seems to have been trained on.
        inside_P: who was; both kinds are there.
        confidence: confidence of every interval by itself.

    Returns:
        ``auc`` (0.5: a coin) with ``interval`` (Newcombe 2006, method 5) and the one-sided ``p_value`` (Mann & Whitney 1947);
        ``low_false_positives``: true positive rate at the thresholds that let through that share of others at most, with exact intervals
        (Clopper & Pearson 1934), or None where there are too few others to tell; ``roc``: points of the curve.
    """
    yes, no = scores_P[inside_P], scores_P[~inside_P]
    test = mannwhitneyu(yes, no, alternative="greater")
    auc = float(test.statistic) / (len(yes) * len(no))
    return {
        "auc": auc,
        "interval": auc_interval(auc, len(yes), len(no), confidence),
        "p_value": float(test.pvalue),
        "low_false_positives": [_at(rate, yes, no, confidence) for rate in FALSE_POSITIVES],
        "roc": _curve(yes, no),
    }


def auc_interval(auc: float, yes: int, no: int, confidence: float) -> list[float]:
    """Interval of an area under the curve: where Hanley & McNeil's (1982) variance, taken at its ends, reaches it (Newcombe 2006)."""
    z, half = float(ndtri(0.5 + confidence / 2.0)), (yes + no) / 2.0 - 1.0

    def reach(end: float) -> float:
        spread = end * (1.0 - end) * (1.0 + half * ((1.0 - end) / (2.0 - end) + end / (1.0 + end))) / (yes * no)
        return abs(auc - end) - z * math.sqrt(max(spread, 0.0))

    # Not from the area itself: at 0 and 1 that is a root too.
    low = float(brentq(reach, 0.0, auc - NEXT)) if auc > NEXT else 0.0
    return [low, float(brentq(reach, auc + NEXT, 1.0)) if auc < 1.0 - NEXT else 1.0]


def summary(measured: Mapping[str, Mapping[str, Any]]) -> tuple[str, float]:
    """The statistic that tells most, and its p-value times their number (Bonferroni)."""
    best = min(measured, key=lambda name: measured[name]["p_value"])
    return best, min(measured[best]["p_value"] * len(measured), 1.0)


def _at(rate: float, yes: Array, no: Array, confidence: float) -> dict[str, Any]:
    """The threshold is the score that ``rate`` of the others exceed."""
    allowed = math.floor(rate * len(no) + 1e-9)
    if not allowed:
        return {"false_positive_rate": rate, "true_positive_rate": None, "interval": None}
    threshold = np.sort(no)[::-1][allowed] if allowed < len(no) else -np.inf
    hits = int((yes > threshold).sum())
    interval = binomtest(hits, len(yes)).proportion_ci(confidence, method="exact")
    return {"false_positive_rate": rate, "true_positive_rate": hits / len(yes), "interval": [float(interval.low), float(interval.high)]}


def _curve(yes: Array, no: Array) -> list[list[float]]:
    """[false, true positive rate] at all thresholds, or at some of very many."""
    thresholds = np.unique(np.concatenate([yes, no]))[::-1]
    points = [[0.0, 0.0], *([float((no >= t).mean()), float((yes >= t).mean())] for t in thresholds)]
    chosen = np.unique(np.linspace(0, len(points) - 1, min(CURVE_POINTS, len(points))).round().astype(int))
    return [points[place] for place in chosen]


def _centred(table: Array) -> Array:
    """Without the means of rows and columns."""
    centred: Array = table - table.mean(axis=0, keepdims=True) - table.mean(axis=1, keepdims=True) + table.mean()
    return centred
