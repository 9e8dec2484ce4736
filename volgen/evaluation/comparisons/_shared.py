"""What comparisons share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from volgen.evaluation.floor import Parting, Places
from volgen.evaluation.space import MOST, components_for
from volgen.evaluation.two_cohorts import CohortFindings, CohortNumber, TwoCohorts

Matrix = NDArray[np.float64]
FEWEST = 6
"""Volumes on the smallest side from which on a distance is taken."""
FEWEST_MEAN = 3
PERCENTILES = (2.5, 25.0, 50.0, 75.0, 97.5)


def in_components(
    both: TwoCohorts, kind: str, title: str, labels: Mapping[str, str], measure: Callable[[Matrix, Matrix], Mapping[str, float]]
) -> CohortFindings:
    """A distance between coordinates in principal components, in every part that distances are taken in.

    Args:
        both: the cohorts.
        kind: name of the comparison.
        title: what it asks.
        labels: what each of its numbers is called.
        measure: coordinates [M, K] and [N, K] of generated and real volumes to those numbers.
    """
    parting = Parting.of(both.ours, both.real, fits=True)
    numbers: list[CohortNumber] = []
    for part, what in both.distances().items():
        space = both.space(part)
        most = min(components_for(parting.smallest), space.size)
        words = refused(parting, FEWEST) or (
            ""
            if most == min(MOST, space.size)
            else f"reduced to {most} components: {parting.smallest} volumes on the smaller side bear no more"
        )

        def statistic(ours: Places, real: Places, fitted: Places, space=space, most=most) -> Mapping[str, float]:  # type: ignore[no-untyped-def]
            coordinates = space.coordinates(fitted, most)
            return measure(coordinates[ours], coordinates[real])

        found = {} if refused(parting, FEWEST) else both.floored(statistic, parting)
        for name, label in labels.items():
            named = f"{part}.{name}" if len(labels) > 1 else part
            numbers.append(CohortNumber(named, f"{label}, {what}", part, parting, found.get(name), words))
    odd = [f"{name}: {why}" for name, why in both.odd.items()]
    return CohortFindings(kind, title, numbers, "" if numbers else "; ".join(odd) or "nothing to take distances in")


def refused(parting: Parting, fewest: int) -> str:
    """Why nothing is measured; empty if there are enough volumes."""
    if parting.smallest >= fewest:
        return ""
    return f"not measured: {parting.smallest} volumes on the smallest side, and it takes {fewest}"


def effects(both: TwoCohorts, kind: str, title: str, extractor: str, keep: Sequence[str] | None = None) -> CohortFindings:
    """How far the mean of each number of an extractor is from that of real people, in standard deviations of people (Cohen's d).

    Args:
        both: the cohorts.
        kind: name of the comparison.
        title: what it asks.
        extractor: kind of the extractor.
        keep: names of the numbers to take; all of them if None.
    """
    one = both.extractor(extractor)
    if one is None or extractor not in both.rows:
        return CohortFindings(kind, title, skipped="nothing was measured of volumes that it could compare")
    rows = np.asarray(both.rows[extractor], dtype=np.float64)
    chosen = [(place, column) for place, column in enumerate(one.quantities()) if keep is None or column.name in keep]
    parting = Parting.of(both.ours, both.real, fits=False)
    why = refused(parting, FEWEST_MEAN)

    def statistic(ours: Places, real: Places, fitted: Places) -> Mapping[str, float]:
        spread = np.maximum(rows[real].std(axis=0, ddof=1), 1e-12)
        away = (rows[ours].mean(axis=0) - rows[real].mean(axis=0)) / spread
        return {column.name: float(away[place]) for place, column in chosen}

    found = {} if why else both.floored(statistic, parting)
    numbers = []
    for place, column in chosen:
        a, b = rows[: both.ours, place], rows[both.ours :, place]
        means = {"generated": float(a.mean()), "generated_sd": spread_of(a), "real": float(b.mean()), "real_sd": spread_of(b)}
        percentiles = {side: np.percentile(values, PERCENTILES).tolist() for side, values in (("generated", a), ("real", b))}
        unit = f" ({column.unit})" if column.unit else ""
        numbers.append(
            CohortNumber(column.name, f"{column.label}{unit}", extractor, parting, found.get(column.name), why, means, percentiles)
        )
    return CohortFindings(kind, title, numbers)


def spread_of(values: Matrix) -> float:
    """Standard deviation of a sample; 0 of one value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
