"""Intervals for the next volume of an unseen person, and how wide they must be so that a real volume passes all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from volgen.evaluation.check import Metric

FALSE_ALARM = 0.05
"""Aimed-at probability that a real volume of an unseen person fails any check at all."""
CONFIDENCE = 0.8
FEW = 8
APART = 6.0
PERCENTILES = (2.5, 50.0, 97.5)
SMALLEST = 1e-9
FOLDS = 5
RESAMPLES = 400
LEAST_STRETCH, MOST_STRETCH = 0.6, 2.5
Array = NDArray[np.float64]


def scaled(values: Array, metric: Metric) -> Array:
    """Values on the scale on which a metric spreads evenly."""
    return np.log(np.maximum(values, SMALLEST)) if metric.scale == "log" else values


def unscaled(values: Array, metric: Metric) -> Array:
    """Inverse of :func:`scaled`."""
    return np.exp(values) if metric.scale == "log" else values


def bands(values: Mapping[str, Array], metrics: Sequence[Metric], stretch: float = 1.0) -> dict[str, Array]:
    """[3, 2] low and high end per axis of every metric, on its own scale, from values [volumes, 3] of real volumes.

    A band is the wider of two intervals. One is Student's prediction interval, mean +- k sd with k = t_{n-1}(1 - alpha / m) sqrt(1 + 1/n):
    alpha = 0.05 is shared by all m ends of all bands (Bonferroni), and the band widens by itself when there are few volumes. The other
    stretches the distances from the median to the 2.5th and the 97.5th percentile by k / 1.96, which follows a skewed distribution.
    """
    ends = sum((1 if metric.whole else 3) * (bool(metric.low) + bool(metric.high)) for metric in metrics)
    count = len(values[metrics[0].name])
    widening = float(stats.t.ppf(1 - FALSE_ALARM / ends, count - 1) * np.sqrt(1 + 1 / count))
    result = {}
    for metric in metrics:
        table = scaled(values[metric.name], metric)
        mean, deviation = table.mean(axis=0), table.std(axis=0, ddof=1)
        low, middle, high = np.percentile(table, PERCENTILES, axis=0)
        below = np.maximum(middle - mean + widening * deviation, widening / 1.96 * (middle - low))
        above = np.maximum(mean + widening * deviation - middle, widening / 1.96 * (high - middle))
        result[metric.name] = np.stack([middle - stretch * below, middle + stretch * above], axis=1)
    return result


def family_stretch(values: Mapping[str, Array], metrics: Sequence[Metric]) -> float:
    """The factor on the width of all bands at which 5 % of unseen people fail any of them.

    Bonferroni's share is too careful where metrics go together, and not careful enough where a metric's tail is heavier than a normal
    one. So people are left out in turn (5 groups), bands are made from the others, and each left-out person's farthest departure from
    the middle, in half widths of the band, is noted. The factor is a tolerance limit of that number: with a confidence of 80 % at most
    5 % of unseen people lie beyond it, by its order statistics and by those of a log-normal distribution; where a reference falls into two
    acquisitions (:func:`acquisitions`), it is the larger of theirs. 1 for fewer than 8 people.
    """
    count = len(values[metrics[0].name])
    if count < FEW:
        return 1.0
    acquisition = acquisitions(values, metrics)
    farthest = np.zeros(count)
    group = np.arange(count) % min(FOLDS, count)
    for fold in range(group.max() + 1):
        out = group == fold
        made = bands({name: table[~out] for name, table in values.items()}, metrics)
        for metric in metrics:
            low, high = made[metric.name].T
            middle = np.percentile(scaled(values[metric.name][~out], metric), 50, axis=0)
            table = scaled(values[metric.name][out], metric)
            for wanted, reach in ((metric.low, (middle - table) / np.maximum(middle - low, SMALLEST)),
                                  (metric.high, (table - middle) / np.maximum(high - middle, SMALLEST))):  # fmt: skip
                if wanted:
                    farthest[out] = np.maximum(farthest[out], reach.max(axis=1))
    # Of scans from two acquisitions the smaller group may hold all that lie far out: each must pass on its own.
    found = [_tolerance_limit(farthest[acquisition == one]) for one in np.unique(acquisition)]
    return float(np.clip(max(found), LEAST_STRETCH, MOST_STRETCH))


def _tolerance_limit(farthest: Array) -> float:
    count = len(farthest)
    logs = np.log(np.maximum(farthest, 0.05))
    share = stats.norm.ppf(1 - FALSE_ALARM) * np.sqrt(count)
    factor = float(stats.nct.ppf(CONFIDENCE, count - 1, share) / np.sqrt(count))
    stretch = float(np.exp(logs.mean() + factor * logs.std(ddof=1)))
    rank = int(stats.binom.ppf(CONFIDENCE, count, 1 - FALSE_ALARM)) + 1
    if rank <= count:  # enough people (32 or more) to ask them directly
        stretch = max(stretch, float(np.sort(farthest)[rank - 1]))
    return stretch


def acquisitions(values: Mapping[str, Array], metrics: Sequence[Metric]) -> NDArray[np.int64]:
    """0 or 1 for each volume: which of two groups it belongs to, if the reference falls into two that lie far apart; else all 0.

    The numbers that tell acquisitions apart (:attr:`Metric.acquisition`) are averaged over the axes; each is split at the two means that
    leave the least variance (as Otsu 1979 does with grey values). Groups lie far apart if their means do by more than 6 of the standard
    deviations that remain, and none is smaller than 8. The number that separates best decides.
    """
    best, groups = APART, np.zeros(len(next(iter(values.values()))), dtype=np.int64)
    for metric in metrics:
        if not metric.acquisition:
            continue
        number = scaled(values[metric.name], metric).mean(axis=1)
        order = np.sort(number)
        for cut in range(FEW, len(order) - FEW + 1):
            low, high = order[:cut], order[cut:]
            within = np.sqrt((low.var() * cut + high.var() * (len(order) - cut)) / len(order))
            apart = float((high.mean() - low.mean()) / max(within, SMALLEST))
            if apart > best:
                best, groups = apart, (number >= order[cut]).astype(np.int64)
    return groups


def percentile_intervals(values: Array) -> list[list[list[float]]]:
    """How far the percentiles would move with other people: [axis][percentile][low, high], 95 %, from values [volumes, 3].

    Volumes are drawn with replacement (Efron and Tibshirani 1993), 400 times with a fixed seed.
    """
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    found = np.percentile(values[drawn], PERCENTILES, axis=1)  # [percentile, resample, axis]
    ends = np.percentile(found, (2.5, 97.5), axis=1)  # [end, percentile, axis]
    return [[[float(f"{end:.6g}") for end in ends[:, p, axis]] for p in range(len(PERCENTILES))] for axis in range(3)]
