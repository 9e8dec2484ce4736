"""Draw volumes from a run and write NIfTI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Option, Positional, Section


class Config(BaseConfig):
    """What is drawn, how, and where it goes."""

    run: Annotated[Path, Positional("RUN")]
    """Directory that volgen train made; or pretrained:NAME, a model of the package."""
    out: Annotated[Path, Option("DIR")]
    """Folder for the NIfTI files, new or to be continued."""
    count: Annotated[int | None, Option("N")] = None
    """Number of volumes (default: as many as the table of --given has rows)."""
    seed: Annotated[int, Option("S")] = 0
    """Volume i depends on this seed and i alone."""
    between: Annotated[tuple[int, int] | None, Option("SEED")] = None
    """Draw a row of --count volumes that leads from volume 0 of one seed to volume 0 of another."""
    sketch: Annotated[Path | None, Option("FILE")] = None
    """NIfTI volume in the run's frame and intensity units, painted, edited or of coarser voxels, that volumes are drawn from: noised, and
    drawn down."""
    sketch_sigma: Annotated[float | None, Option("SIGMA")] = None
    """How much noise --sketch is given: details that it drowns are drawn anew (the run's highest level that is not above it)."""
    steps: Annotated[int | None, Option("N")] = None
    """Points of the run's noise grid to visit (default: all)."""
    sampler: Annotated[str | dict[str, object] | None, Section("volgen.sampling.samplers")] = None
    """Solver (default: the run's), with settings as --sampler.KEY VALUE."""
    noise: Annotated[str | dict[str, object] | None, Section("volgen.sampling.noises")] = None
    """Noise (default: white), with settings as --noise.KEY VALUE: of slerp, slices along --noise.axis (R, A, S) share noise."""
    given: Annotated[tuple[str, ...], Option("NAME=VALUE", verbatim=True, repeated=True)] = ()
    """What every volume is asked to be: a condition that the run was trained with, once for each; or TABLE.tsv, whose rows say it of one
    volume each."""
    encoder: Annotated[Path | None, Option("FOLDER")] = None
    """Where the sentence encoder lies now that the run was told prompts by (default: where it lay in training, or beside the run)."""
    guidance: Annotated[str | dict[str, object] | None, Section("volgen.sampling.guidances")] = None
    """What the denoiser is turned into, such as one that agrees with --data (default: the run's; none with --data), with settings as
    --guidance.KEY VALUE."""
    operator: Annotated[str | dict[str, object] | None, Section("volgen.operators")] = None
    """What of --data was measured, with settings as --operator.KEY VALUE: of inpaint, the voxels of a --operator.mask."""
    data: Annotated[Path | None, Option("FILE")] = None
    """NIfTI volume in the run's frame and intensity units, of which volumes have to agree with what --operator measures."""
    batch_size: Annotated[int, Option("N")] = 1
    """Volumes that ranks hand on together; no volume depends on it."""
    device: Annotated[str | None, Option("DEVICE")] = None
    """Torch device (default: a GPU if there is one)."""
    dtype: Literal["float32", "int16"] = "float32"
    """Voxels in the files; int16 has a slope."""
    start_index: Annotated[int, Option("I")] = 0
    """Index of the first volume."""
    memory_gib: Annotated[float, Option("GiB")] = 4.0
    """Memory of a rank for volumes under way, and as much for experts."""
    full: bool = False
    """Whether whole volumes are on their way at all noise levels, where a bank has coarser levels for high noise."""
    voxel_size: Annotated[float | None, Option("MM")] = None
    """Edge of the voxels in the files: the run's times a power of 2, means over its voxels; experts of finer ones are left out (default:
    the run's)."""
    stages: Annotated[int | None, Option("N")] = None
    """Ranks that each volume passes through, if there are several (default: as many as it takes to hold all experts)."""


def run(config: Config) -> Answer[Path]:
    """Draws volumes from a run."""
    from volgen.commands.sample.sample import sample

    return Answer(sample(**dict(config)))
