"""Find settings of a reconstruction on validation people.

A guidance's numbers, such as Song et al.'s lambda, are looked for by Bayesian optimisation (trees of Parzen estimators, Bergstra et al.
2011, in Optuna) where scans of a store are measured and the truth is known. Nobody of the test split is looked at. The file that comes of
it is for `volgen reconstruct --settings`. A stopped command continues, and a larger `--trials` adds some.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import NonNegativeFloat

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Option, Positional, Section


class Config(BaseConfig):
    """What is measured, what is looked for, and where it goes."""

    run: Annotated[Path, Positional("RUN")]
    """Directory that volgen train made; or pretrained:NAME, a model of the package."""
    out: Annotated[Path, Option("DIR")]
    """Folder for the settings and the trials, new or to be continued."""
    simulate: Annotated[str, Option("STORE")]
    """Store whose validation people are measured by --operator."""
    guidance: Annotated[str | dict[str, object], Section("volgen.sampling.guidances")]
    """Whose numbers are looked for, with settings that stay as they are as --guidance.KEY VALUE."""
    operator: Annotated[str | dict[str, object], Section("volgen.operators")]
    """What the instrument does to a volume, with settings as --operator.KEY VALUE."""
    mask: Annotated[str | dict[str, object] | None, Section("volgen.acquisition.masks")] = None
    """Which lines of k-space --operator measures, with settings as --mask.KEY VALUE: short for --operator.mask.KEY."""
    sampler: Annotated[str | dict[str, object] | None, Section("volgen.sampling.samplers")] = None
    """Solver (default: the one that the guidance's paper takes), with settings as --sampler.KEY VALUE."""
    search: Annotated[tuple[str, ...], Option("KEY=LOW:HIGH[:log]", verbatim=True, repeated=True)] = ()
    """Where a number is looked for, such as guidance.gamma=0.1:100:log or sampler.share=0:1 (default: where the guidance and the solver
    say)."""
    trials: Annotated[int, Option("N")] = 30
    """Settings that are tried, the first of them as they are."""
    people: Annotated[int, Option("N")] = 2
    """Validation people on whom each is tried, from the first on."""
    split: Literal["all", "train", "validation", "test"] = "validation"
    """Which people: the others are refused, as who is tuned on is no test any more."""
    count: Annotated[int, Option("N")] = 1
    """Volumes that are drawn of each; their mean is compared with the truth."""
    goal: Literal["psnr", "ssim"] = "psnr"
    """What is to be largest, inside the head."""
    steps: Annotated[int | None, Option("N")] = None
    """Points of the run's noise grid to visit (default: all)."""
    voxel_size: Annotated[float | None, Option("MM")] = None
    """Edge of the voxels that are drawn, the run's times a power of 2 (default: its own)."""
    field: Literal["grid", "box"] = "grid"
    """Field of view in which scans are measured: the run's grid, or the box that it computes in, around which is only air."""
    noise: Annotated[NonNegativeFloat | None, Option("SD")] = None
    """Standard deviation of the noise of the data, where 2 is the intensity window (default: 0.02)."""
    seed: Annotated[int, Option("S")] = 0
    """Seed of the noise, of the volumes and of the search."""
    device: Annotated[str | None, Option("DEVICE")] = None
    """Torch device (default: a GPU if there is one)."""


def run(config: Config) -> Answer[Path]:
    """Looks for settings; gives their file."""
    from volgen.commands.tune.tune import tune

    return Answer(tune(**dict(config)))
