"""From how many volumes on a number says something, and in which words one is told that there are fewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from volgen.evaluation import cohort as cohorts
from volgen.evaluation.cohort_measure import Goal

SHARE = 20
"""Volumes behind a share: of 20 without a fault, at most 17 % of all can have one (exact 95 % interval)."""


def sides(cohort: Mapping[str, Any]) -> tuple[int, int]:
    """Generated volumes, and real people that a model does not see."""
    return int(cohort["count"]["generated"]), int(cohort["count"]["real_validation"])


def enough(goal: Goal, cohort: Mapping[str, Any]) -> bool:
    """Whether a number is measured on enough volumes of both sides."""
    return "count" not in cohort or min(sides(cohort)) >= goal.fewest


def judged(cohort: Mapping[str, Any] | None) -> list[tuple[Goal, Mapping[str, Any]]]:
    """Targets of ``cohort`` of ``report.json``, each with what people are told of it; none where no cohort was measured."""
    goals = cohorts.goals()
    return [(goals[target["name"]], target) for target in (cohort or {}).get("targets", [])]


def missed(cohort: Mapping[str, Any] | None) -> list[str]:
    """What it means that targets are missed, of those that enough volumes stand behind; each said once."""
    faults = (goal.missed for goal, target in judged(cohort) if cohort and target["pass"] is False and enough(goal, cohort))
    return list(dict.fromkeys(faults))


def rows(cohort: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The measures of a cohort for a table: those with a band, then those that are shown without one.

    Returns:
        ``label``, ``value``, ``band`` ([low, high] or None), ``aim`` (in place of a band), ``pass``, ``enough`` and ``fewest`` of each.
    """
    found = [{**target, "aim": "", "enough": enough(goal, cohort), "fewest": goal.fewest} for goal, target in judged(cohort)]
    for kind, goal in cohorts.shown():
        if kind in cohort:
            found.append({
                "name": goal.name, "label": goal.label, "value": cohort[kind][goal.shown], "band": None, "aim": goal.aim, "pass": None,
                "enough": enough(goal, cohort), "fewest": goal.fewest,
            })  # fmt: skip
    return found


def too_few(volumes: int, cohort: Mapping[str, Any] | None) -> list[str]:
    """Sentences of what there are too few volumes for.

    Args:
        volumes: how many were judged.
        cohort: measures of the cohort, if there are any.
    """
    told = []
    if volumes < SHARE:
        told.append(
            f"{volumes} volume{' is' if volumes == 1 else 's are'} few for a share: see its interval; from {SHARE} on it says something."
        )
    if cohort and "count" in cohort:
        ours, real = sides(cohort)
        both = f"({ours} generated, {real} unseen real)"
        small = [(goal, target["label"]) for goal, target in judged(cohort) if not enough(goal, cohort)]
        if small:
            labels, needed = "; ".join(label for _, label in small), most([goal for goal, _ in small])
            told.append(f"Too few volumes {both} for: {labels}. From {needed} of each on these say something.")
        for _, goal in cohorts.shown():
            if not enough(goal, cohort):
                name = goal.label.partition(",")[0]
                told.append(f"The {name} is of too few volumes {both}: from {goal.fewest} of each on it says something.")
    return told


def most(goals: Sequence[Goal]) -> int:
    """Volumes of each side from which on all of these numbers say something."""
    return max(goal.fewest for goal in goals)
