"""Anatomy: what a segmenter finds in generated volumes, beside what it finds in people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import linregress, t

from volgen.core.config import Config as BaseConfig
from volgen.evaluation.comparisons._shared import FEWEST, effects, refused
from volgen.evaluation.floor import Parting, Places
from volgen.evaluation.frechet import frechet_distance
from volgen.evaluation.space import FeatureSpace, components_for
from volgen.evaluation.two_cohorts import CohortFindings, CohortNumber, TwoCohorts

PART, SHARE = "anatomy", "share "
PERSON = (2.5, 97.5)
"""Percentiles of single people."""
FEWEST_AGES = 8
ROUNDING = 1e-9
Matrix = NDArray[np.float64]


class Config(BaseConfig):
    """Effect sizes of unknown share, confidence, volume and shares; the Frechet distance of standardised shares; slopes on age.

    The distance is that of WASABI (Jafrasteh et al. 2025), in principal components of shares over their spread in people: shares add up to
    1, so there is one component fewer than structures.
    """

    kind: Literal["anatomy"] = "anatomy"
    place: ClassVar[int] = 0
    paper: ClassVar[str] = (
        "Jafrasteh B, Peng W, Wan C, Luo Y, Adeli E, Zhao Q. WASABI: a metric for evaluating morphometric plausibility of synthetic "
        "brain MRIs. MICCAI 2025, arXiv:2504.21771."
    )

    def compare(self, both: TwoCohorts) -> CohortFindings:
        """``more`` has ``people``, the middle 95 % of people for each number and the share of volumes outside, and ``age``."""
        title = "Anatomy"
        one = both.extractor(PART)
        if one is None or PART not in both.rows:
            return CohortFindings(self.kind, title, skipped="not measured: no segmenter was given (--segmenter)")
        rows = np.asarray(both.rows[PART], dtype=np.float64)
        names = [quantity.name for quantity in one.quantities()]
        known = [name for place, name in enumerate(names) if _varies(rows[:, place], both.people)]
        found = effects(both, self.kind, title, PART, known)
        shares = rows[:, [place for place, name in enumerate(names) if name in known and name.startswith(SHARE)]]
        more: dict[str, Any] = {
            "people": {name: _outside(rows[: both.ours, names.index(name)], rows[both.people, names.index(name)]) for name in known},
            "age": [
                {"name": name, **slopes} for name in known
                if (slopes := _slopes(rows[:, names.index(name)], both.ages, both.ours))
            ],
        }  # fmt: skip
        return CohortFindings(self.kind, title, [_distance(both, shares), *found.numbers], more=more)


def _varies(values: Matrix, people: Places) -> bool:
    """Whether a number is known of everybody, and differs between people by more than rounding."""
    return bool(np.isfinite(values).all() and values[people].std() > ROUNDING * max(float(np.abs(values[people]).max()), ROUNDING))


def _distance(both: TwoCohorts, shares: Matrix) -> CohortNumber:
    """Frechet distance of standardised shares."""
    parting = Parting.of(both.ours, both.real, fits=True)
    label = "Frechet distance of the shares of structures"
    why = refused(parting, FEWEST) or ("" if shares.shape[1] > 1 else "not measured: fewer than two structures differ between people")
    if why:
        return CohortNumber("shares", label, PART, parting, None, why)
    space = FeatureSpace(shares, standardise=True, scale=both.people)
    most = components_for(parting.smallest, max(space.size - 1, 1))
    words = (
        ""
        if most == max(space.size - 1, 1)
        else f"reduced to {most} components: {parting.smallest} volumes on the smaller side bear no more"
    )

    def statistic(ours: Places, real: Places, fitted: Places) -> Mapping[str, float]:
        coordinates = space.coordinates(fitted, most)
        return {"shares": frechet_distance(coordinates[ours], coordinates[real])}

    return CohortNumber("shares", label, PART, parting, both.floored(statistic, parting)["shares"], words)


def _outside(ours: Matrix, real: Matrix) -> dict[str, Any]:
    low, high = (float(end) for end in np.percentile(real, PERSON))
    return {"band": [low, high], "outside": float(((ours < low) | (ours > high)).mean())}


def _slopes(values: Matrix, ages: Matrix, ours: int) -> dict[str, Any]:
    """Slope on age (per ten years) of either side with its 95 % interval; nothing where few ages are known, or all are one."""
    found = {}
    for side, rows in (("generated", slice(0, ours)), ("real", slice(ours, None))):
        known = np.isfinite(ages[rows])
        age, value = ages[rows][known] / 10.0, values[rows][known]
        if len(age) >= FEWEST_AGES and age.std() > 0:
            line = linregress(age, value)
            half = float(t.ppf(0.975, len(age) - 2) * line.stderr)
            found[side] = {"people": len(age), "slope": float(line.slope), "interval": [float(line.slope) - half, float(line.slope) + half]}
    return found
