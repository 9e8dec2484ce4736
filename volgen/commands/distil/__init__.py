"""Make a student of few steps from a run: draw the run's trajectories, and train experts that jump along them.

Every key of the student's configuration can be given, for example: --stopping.max_steps 2000 --optimiser.learning_rate 1e-3. The same
command continues what was stopped. On several ranks, draw first with one process and --draw-only, then start this command with all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Dotted, Option, Pairs, Positional

USAGE = "volgen distil RUN --name STUDENT --steps N [N ...] [--count N] [--pairs STORE] [--section.key VALUE ...] [--draw-only]"


class Config(BaseConfig):
    """Which run teaches, and what the student is."""

    run: Annotated[Path, Positional("RUN")]
    """The teacher: directory that volgen train finished, or pretrained:NAME for a model of the package."""
    name: Annotated[str, Option("STUDENT")]
    """Name of the student's run."""
    steps: Annotated[tuple[PositiveInt, ...], Option("N"), Field(min_length=1)]
    """Steps of the student: experts, each of which jumps from the highest of its noise levels to the next expert's. Several numbers: those
    of each of the teacher's models, lowest noise first."""
    runs: Annotated[Path | None, Option("DIR")] = None
    """Folder of run directories (default: that of the teacher's configuration)."""
    count: Annotated[int, Option("N")] = Field(default=256, ge=8)
    """Trajectories; each eighth is for validation. A larger number adds to those that are there. Experts that see patches need few."""
    pairs: Annotated[Path | None, Option("STORE")] = None
    """Zarr store for the trajectories (default: <runs>/<name>-trajectories.zarr)."""
    inner: NonNegativeInt = 3
    """Noise levels between those from which the student jumps whose states are kept too, for each expert."""
    seed: NonNegativeInt = 0
    """Trajectory i depends on this seed and i alone."""
    memory_gib: Annotated[PositiveFloat, Option("GiB")] = 4.0
    """Host memory for trajectories under way; experts of the teacher are loaded once for as many as fit."""
    device: Annotated[str | None, Option("DEVICE")] = None
    """Torch device for the teacher (default: a GPU if there is one)."""
    draw_only: bool = False
    """Whether to stop when the trajectories are there."""
    overrides: Annotated[Pairs, Dotted()] = ()
    """Keys of the student's configuration and what they shall be instead of the teacher's."""


def run(config: Config) -> Answer[Path]:
    """Draws trajectories and trains a student."""
    from volgen import commands
    from volgen.commands.distil.distil import prepare

    store, student = prepare(config)
    if config.draw_only:
        return Answer(store)
    train = commands.module("train")
    answer: Answer[Path] = train.run(train.Config(config=student))
    return answer
