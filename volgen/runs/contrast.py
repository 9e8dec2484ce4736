"""Which contrast a volume of a run has: that of its cohort, or of several the one that was asked for."""

from __future__ import annotations

from collections.abc import Mapping

from volgen.images.contrasts import SUFFIXES, suffix_named
from volgen.runs.trained import TrainedRun


def contrast_of(run: TrainedRun, told: Mapping[str, str]) -> str:
    """The contrast of a volume, as a suffix of BIDS; "" if the cohort has several and nothing that was asked for says which.

    A condition says it whose words call all contrasts of the cohort: so ``pd`` is no contrast where it is a group of patients.

    Args:
        run: who draws.
        told: what is asked of the volume, in words, by condition.
    """
    there = run.geometry.contrasts
    if len(there) == 1:
        return there[0]
    telling = [condition.name for condition in run.recipe.conditions if {suffix_named(word) for word in condition.choices} >= set(there)]
    asked = {suffix_named(told[name]) for name in telling if name in told} & set(there)
    return asked.pop() if len(asked) == 1 else ""


def contrast_in_words(contrast: str) -> str:
    """What a sidecar says of a volume with a contrast, or of one of which nobody knows it ("")."""
    return f"{SUFFIXES[contrast]} volume" if contrast else "volume, of no contrast that was asked for,"
