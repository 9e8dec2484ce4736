"""A cohort that is split in two is its own floor: each distance of its halves lies in the band made from other splits of one half."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from volgen.core.config import validate
from volgen.core.registry import config_class
from volgen.evaluation import floor
from volgen.evaluation.evaluate import COMPARISONS, extractors, keep
from volgen.evaluation.specimen import Specimen
from volgen.evaluation.two_cohorts import CohortComparison, Kept, pooled

PEOPLE, EDGE, VOXEL = 80, 16, 8.0
SPLITS, INSIDE = 100, 95
DISTANCES = ("frechet", "kid", "neighbours")


def person(number: int) -> NDArray[np.float32]:
    """A head of two tissues: an ellipsoid inside another, with a size, a place and a contrast of its own, and smooth texture."""
    random = np.random.default_rng([7, number])
    places = np.indices((EDGE,) * 3) - (EDGE - 1) / 2 - random.normal(0, 0.3, (3, 1, 1, 1))
    far = np.sqrt(((places / random.normal(5.5, 0.4, (3, 1, 1, 1))) ** 2).sum(axis=0))
    tissue = 0.5 + random.normal(0.35, 0.05) / (1 + np.exp((far - random.normal(0.65, 0.04)) * 12))
    texture = ndimage.gaussian_filter(random.normal(size=far.shape), 1.0) * 0.15
    return np.where(far < 1, tissue + texture, 0).astype(np.float32)


def kept(volume: NDArray[np.float32]) -> dict[str, Kept]:
    return keep(Specimen("phantom", volume, (VOXEL,) * 3), extractors())


def inside(ours: list[dict[str, Kept]], real: list[dict[str, Kept]], seed: int) -> dict[str, bool]:
    both = pooled(
        ours, real, trained=[False] * len(real), ages=[np.nan] * (len(ours) + len(real)), extractors=extractors(), seed=seed
    )  # fmt: skip
    found = {}
    for kind in DISTANCES:
        one: CohortComparison = validate(config_class(COMPARISONS, kind), {"kind": kind}, "test")  # type: ignore[assignment]
        for number in one.compare(both).numbers:
            assert number.floored is not None
            found[f"{kind}.{number.name}"] = number.floored.inside
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cohort_split_in_two_lies_inside_its_band_in_95_of_100_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "RESAMPLES", 0)  # intervals are not looked at
    people = [kept(person(number)) for number in range(PEOPLE)]
    counted: Counter[str] = Counter()
    for split in range(SPLITS):
        order = np.random.default_rng([8, split]).permutation(PEOPLE)
        found = inside([people[i] for i in order[: PEOPLE // 2]], [people[i] for i in order[PEOPLE // 2 :]], split)
        counted.update(name for name, is_inside in found.items() if is_inside)
    assert len(found) == len(DISTANCES[:2]) * 6 + 6 * 4
    assert {name: counted[name] for name in found if counted[name] < INSIDE} == {}
    blurred = [kept(ndimage.gaussian_filter(person(number), 1.0)) for number in range(PEOPLE // 2)]
    found = inside(blurred, people[PEOPLE // 2 :], 0)
    assert not found["frechet.filters"] and not found["kid.filters"] and not found["neighbours.filters.coverage"]
