"""What can be asked of runs on this machine: their conditions, with what those need wherever it lies now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from volgen.core.errors import UserError
from volgen.models.condition import ConditionConfig
from volgen.runs.trained import TrainedRun

OPTION = "--encoder"


def conditions_of(*runs: TrainedRun, encoder: Path | None = None) -> list[Sequence[ConditionConfig]]:
    """The conditions of each run. A sentence encoder is the one that is named, else where ``config.yaml`` says, else beside the run.

    Args:
        runs: what is asked.
        encoder: where the sentence encoder lies now; None if nobody says it.

    Raises:
        UserError: it is another encoder than a run was told by, or no run was told by one.
    """
    found: list[Sequence[ConditionConfig]] = []
    for run in runs:
        try:
            found.append([one.placed((run.directory, run.directory.parent), encoder) for one in run.recipe.conditions])
        except ValueError as error:
            raise UserError(OPTION, str(error), "the encoder that the run was told by") from None
    if encoder is not None and not any(condition.places for conditions in found for condition in conditions):
        raise UserError(OPTION, "is there, and the run was told nothing by one", "none", "leave it out")
    return found
