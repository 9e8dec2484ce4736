"""Generators against the same bands: how many volumes are condemned, how far off, in what, and how sure that is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from volgen.core.protocols import AXES
from volgen.evaluation.bands import FALSE_ALARM, SMALLEST
from volgen.evaluation.check import Metric
from volgen.evaluation.reference import Reference
from volgen.evaluation.verdict import number

FARTHEST = 10.0
"""A metric counts at most this many widths of its band; one that could not be measured counts as much."""
RESAMPLES = 2000
FEWEST = 5
"""Volumes of either side from which on resampling says which comes first: fewer hardly vary, and would always be "100 % ahead"."""
MOST_REASONS = 3
Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Scores:
    """Scores of one generator: distances and values [volumes, metrics, 3] (NaN: not measured), and which volumes are condemned or other."""

    distances: Array
    values: Array
    condemned: NDArray[np.bool_]
    other: NDArray[np.bool_]

    @property
    def of_volume(self) -> Array:
        """Distance of each volume."""
        means: Array = self.distances.mean(axis=(1, 2))
        return means


def compare(reports: Mapping[str, Mapping[str, Any]], bands: Reference) -> list[dict[str, Any]]:
    """Entries of ``compare.json``, best first.

    Generators are ranked by the share of volumes condemned, and by their distance from the bands where that is the same. The distance of
    a metric along an axis is how far it lies outside its band, in widths of the band on the metric's own scale (0 inside, at most 10);
    that of a volume is the mean over all metrics and axes. Intervals of 95 % come from resampling volumes with replacement (Efron and
    Tibshirani 1993; 2000 times, fixed seed), that of the share condemned is exact (Clopper and Pearson 1934): resampling volumes
    of which all are condemned would say that the next one is too, for certain. One volume has no interval by resampling.

    Args:
        reports: content of ``report.json``, by name of the generator.
        bands: the bands that all of them were judged by.
    """
    scores = {name: _scores(report["volumes"], bands) for name, report in reports.items()}
    order = sorted(scores, key=lambda name: (scores[name].condemned.mean(), scores[name].of_volume.mean(), name))
    entries = []
    for rank, name in enumerate(order, 1):
        following = order[rank] if rank < len(order) else None
        entries.append({
            "name": name, "rank": rank, **_entry(name, reports[name]["volumes"], scores[name], bands),
            "ahead_of_next": None if following is None else _ahead(scores[name], scores[following]),
        })  # fmt: skip
    return entries


def _scores(volumes: Sequence[Mapping[str, Any]], bands: Reference) -> _Scores:
    names = [metric.name for _, metric in bands.metrics]
    table = [[[volume["metrics"][name][axis] for axis in AXES] for name in names] for volume in volumes]
    values = np.array(table, dtype=np.float64)
    distances = np.stack(
        [np.stack([_distance(values[:, m, a], metric, *bands.bands[metric.name][a]) for a in range(3)], axis=-1)
         for m, (_, metric) in enumerate(bands.metrics)], axis=1,
    )  # fmt: skip
    verdicts = np.array([volume["verdict"] for volume in volumes])
    return _Scores(distances, values, verdicts == "fail", verdicts == "other")


def _distance(values: Array, metric: Metric, low: float, high: float) -> Array:
    """Widths of the band by which values lie outside it."""
    if metric.scale == "log":
        values, low, high = np.log(np.maximum(values, SMALLEST)), math.log(max(low, SMALLEST)), math.log(max(high, SMALLEST))
    beyond = np.maximum(low - values if metric.low else -math.inf, values - high if metric.high else -math.inf)
    return np.where(np.isnan(values), FARTHEST, np.clip(beyond / max(high - low, SMALLEST), 0, FARTHEST))


def _entry(name: str, volumes: Sequence[Mapping[str, Any]], scores: _Scores, bands: Reference) -> dict[str, Any]:
    count, condemned, other = len(volumes), int(scores.condemned.sum()), int(scores.other.sum())
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    verdict = _verdict(condemned, count, other)
    middle = int(np.argsort(scores.of_volume, kind="stable")[(count - 1) // 2])
    exact = stats.binomtest(condemned, count).proportion_ci(0.95, method="exact")
    reasons = _reasons(volumes, bands, {metric.name: scores.distances[:, m].mean(axis=0) for m, (_, metric) in enumerate(bands.metrics)})
    return {
        "verdict": verdict, "text": _text(name, verdict, condemned, other, count, reasons), "volumes": count, "condemned": condemned,
        "passed": count - condemned - other, "other": other,
        "share_condemned": {"value": number(condemned / count), "interval": [number(exact.low), number(exact.high)]},
        "distance": _mean(scores.of_volume, drawn),
        "axes": {axis: _mean(scores.distances[:, :, a].mean(axis=1), drawn) for a, axis in enumerate(AXES)},
        "metrics": {
            metric.name: {
                axis: {**_median(scores.values[:, m, a], drawn), "distance": _mean(scores.distances[:, m, a], drawn)}
                for a, axis in enumerate(AXES)
            }
            for m, (_, metric) in enumerate(bands.metrics)
        },
        "reasons": reasons, "median_volume": volumes[middle]["name"],
    }  # fmt: skip


def _mean(values: Array, drawn: NDArray[np.int_]) -> dict[str, Any]:
    return {"value": number(float(values.mean())), "interval": _ends(values[drawn].mean(axis=1)) if len(values) > 1 else None}


def _median(values: Array, drawn: NDArray[np.int_]) -> dict[str, Any]:
    """Median over the volumes in which the metric could be measured; None if there are none."""
    known = np.count_nonzero(np.isfinite(values))
    if not known:
        return {"median": None, "interval": None}
    resampled = values[drawn]
    resampled[np.isnan(resampled).all(axis=1)] = np.nanmedian(values)  # a draw of nothing but what could not be measured
    medians = np.nanmedian(resampled, axis=1)
    return {"median": number(float(np.nanmedian(values))), "interval": _ends(medians) if known > 1 else None}


def _ends(resampled: Array) -> list[float | None]:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return [number(float(low)), number(float(high))]


def _ahead(first: _Scores, second: _Scores) -> float | None:
    """Share of resamples of both in which the first still comes before the second (half of the ties); None for fewer than 5 volumes."""
    if min(len(first.condemned), len(second.condemned)) < FEWEST:
        return None
    draws = np.random.default_rng(0)
    keys = []
    for one in (first, second):
        drawn = draws.integers(len(one.condemned), size=(RESAMPLES, len(one.condemned)))
        keys.append((one.condemned[drawn].mean(axis=1), one.of_volume[drawn].mean(axis=1)))
    (share, distance), (other_share, other_distance) = keys
    tied = share == other_share
    before = (share < other_share) | (tied & (distance < other_distance))
    return round(float(np.mean(before + 0.5 * (tied & (distance == other_distance)))), 4)


def _verdict(condemned: int, count: int, other: int = 0) -> str:
    """``passes``, ``other``, ``undecided``, ``partly condemned`` or ``condemned``.

    ``passes`` means what it means in a report: volumes pass. If none to speak of is condemned, but more of the rest than chance gives are
    of another acquisition than the reference, or blurred or noisy everywhere, it is ``other``.

    Real volumes are condemned now and then (5 %): as many as chance may give with a probability above 5 % (binomial test) decide nothing.
    """
    unlike = condemned + other
    fine = "passes" if not other or unlike <= 2 * FALSE_ALARM * count else "other"
    if condemned == 0:
        return fine
    if stats.binom.sf(condemned - 1, count, FALSE_ALARM) > FALSE_ALARM:
        return fine if condemned <= 2 * FALSE_ALARM * count else "undecided"
    return "condemned" if 2 * condemned > count else "partly condemned"


def _reasons(volumes: Sequence[Mapping[str, Any]], bands: Reference, distances: Mapping[str, Array]) -> list[dict[str, Any]]:
    """What most volumes are condemned for, and by the farthest: metric, axis, in how many volumes, in words.

    A check has one reason, and more only if others of its numbers condemn volumes that no reason covers yet; those that compare the axes
    have one between them, because a fault along one axis moves the others too, the other way.
    """
    metrics = {metric.name: metric for _, metric in bands.metrics}
    found: dict[tuple[str, str, str, str], set[str]] = defaultdict(set)
    for volume in volumes:
        for finding in volume["findings"]:
            side = "none" if finding["value"] is None else "low" if finding["value"] < finding["band"][0] else "high"
            found[finding["check"], finding["metric"], finding["axis"], side].add(volume["name"])

    def weight(item: tuple[tuple[str, str, str, str], set[str]]) -> tuple[float, float, Any]:
        (_, name, axis, _), names = item
        return -len(names), -float(distances[name][AXES.index(axis)]) if name in distances else -math.inf, item[0]

    reasons: list[dict[str, Any]] = []
    covered: set[str] = set()
    told: set[str] = set()  # checks, and "contrast"
    for (check, name, axis, side), names in sorted(found.items(), key=weight):
        groups = {check, "contrast"} if name in metrics and metrics[name].contrast else {check}
        if len(reasons) < MOST_REASONS and (not groups & told or names - covered):
            covered |= names
            told |= groups
            whole = name in metrics and metrics[name].whole
            words = _words(metrics.get(name), side)
            reasons.append({"check": check, "metric": name, "axis": axis, "whole": whole, "volumes": len(names), "text": words})
    return reasons


def _words(metric: Metric | None, side: str) -> str:
    if metric is None:
        return "has voxels that are not numbers"
    if side == "none":
        return "shows no head, or too little of one to measure"
    return ((metric.low if side == "low" else metric.high) or metric.high).replace(" here", "")


def _text(name: str, verdict: str, condemned: int, other: int, count: int, reasons: Sequence[Mapping[str, Any]]) -> str:
    passed = count - condemned - other
    of = f"of {count} volume{'s' if count != 1 else ''}"
    pass_ = "passes" if count == 1 else "pass"
    words = "; ".join(
        f"{'' if reason['whole'] else 'along ' + reason['axis'] + ' '}in {reason['volumes']} of {count} it {reason['text']}"
        for reason in reasons
    )
    if verdict == "passes":
        rest = f"; {condemned + other} outside, as many as real scans may be" if passed < count else ""
        return f"{name}: passes; {passed} {of} {pass_}{rest}"
    if verdict == "other":
        unlike = "unlike the reference in sharpness, contrast or noise everywhere"
        return f"{name}: other, {passed} {of} {pass_}; {other} {unlike}; {words}"
    more = " (too few volumes to tell from chance)" if verdict == "undecided" else ""
    return f"{name}: {verdict}{more}, {condemned} {of}; {words}"
