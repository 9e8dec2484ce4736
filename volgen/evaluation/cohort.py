"""How good a set of generated volumes is as a whole, against real ones on the same grid: every measure in ``volgen/evaluation/cohorts``.

A single volume can pass every check while the cohort is wrong: all volumes alike, or copies of training subjects, or all too large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from volgen.core.config import validate
from volgen.core.registry import config_class, kinds
from volgen.evaluation.cohort_measure import CohortMeasure, Goal, Unit, VolumeGroup

PACKAGE = "volgen.evaluation.cohorts"


def measures() -> list[CohortMeasure]:
    """Every measure of the folder with its default parameters, in the order of a report."""
    found: list[Any] = [validate(config_class(PACKAGE, kind), {"kind": kind}, PACKAGE) for kind in kinds(PACKAGE)]
    return sorted(found, key=lambda measure: (measure.place, measure.kind))


def goals() -> dict[str, Goal]:
    """What people are told of each number of a cohort, by its name."""
    return {goal.name: goal for measure in measures() for goal in measure.goals}


def shown() -> list[tuple[str, Goal]]:
    """Kind of measure and goal of the numbers that are shown without a band."""
    return [(measure.kind, goal) for measure in measures() for goal in measure.goals if goal.shown]


def cohort_quality(
    generated: Sequence[Unit], real_validation: Sequence[Unit], real_train: Sequence[Unit], voxel_size: float | tuple[float, float, float]
) -> dict[str, Any]:
    """Measures a generated cohort.

    Args:
        generated: volumes [X, Y, Z] in [0, 1], RAS+; at least one.
        real_validation: people that the model has not seen; at least two.
        real_train: people that it was trained on; at least two.
        voxel_size: mm.

    Returns:
        JSON-able: ``"count"`` of each group; the values of each measure under its kind; and ``"targets"``, a list of ``{"name", "label",
        "value", "band": [low, high], "pass"}`` with None for an open end. A measure that needs more volumes than there are is None.
    """
    size = (voxel_size,) * 3 if isinstance(voxel_size, (int, float)) else voxel_size
    sides = [VolumeGroup(volumes, size) for volumes in (generated, real_validation, real_train)]
    result: dict[str, Any] = {
        "count": {name: len(side) for name, side in zip(("generated", "real_validation", "real_train"), sides, strict=True)}
    }
    targets = []
    for measure in measures():
        compared = measure.compare(*sides)
        result[measure.kind] = dict(compared.values)
        labels = {goal.name: goal.label for goal in measure.goals}
        targets += [
            {"name": t.name, "label": labels[t.name], "value": t.value, "band": [t.low, t.high], "pass": t.passed} for t in compared.targets
        ]
    return {**result, "targets": targets}
