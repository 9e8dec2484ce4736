"""Measurements in, volumes that agree with them out, and what is not known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import NonNegativeFloat

from volgen.core.answer import Answer
from volgen.core.config import Config as BaseConfig
from volgen.core.options import Option, Positional, Section


class Config(BaseConfig):
    """What was measured, how volumes are drawn from it, and where they go."""

    run: Annotated[Path, Positional("RUN")]
    """Directory that volgen train made; or pretrained:NAME, a model of the package."""
    out: Annotated[Path, Option("DIR")]
    """Folder for the volumes, new or to be continued."""
    data: Annotated[Path | None, Option("FILE")] = None
    """Measurements of one head: raw data of a scanner (ISMRMRD or .npz), or a NIfTI image that --operator measured."""
    simulate: Annotated[str | None, Option("STORE")] = None
    """Store whose scans are measured by --operator, in place of --data: then the truth is known."""
    split: Literal["all", "train", "validation", "test"] = "test"
    """Which scans of --simulate."""
    people: Annotated[int | None, Option("N")] = None
    """How many scans of --simulate, from the first on (default: all)."""
    count: Annotated[int, Option("N")] = 16
    """Volumes that are drawn of each head."""
    seed: Annotated[int, Option("S")] = 0
    """Volume i depends on the data, this seed and i alone."""
    operator: Annotated[str | dict[str, object] | None, Section("volgen.operators")] = None
    """What the instrument does to a volume, with settings as --operator.KEY VALUE (default: what raw data say of themselves)."""
    mask: Annotated[str | dict[str, object] | None, Section("volgen.acquisition.masks")] = None
    """Which lines of k-space --operator measures, with settings as --mask.KEY VALUE: short for --operator.mask.KEY."""
    guidance: Annotated[str | dict[str, object] | None, Section("volgen.sampling.guidances")] = None
    """What makes volumes agree with the data (default: the best there is), with settings as --guidance.KEY VALUE."""
    sampler: Annotated[str | dict[str, object] | None, Section("volgen.sampling.samplers")] = None
    """Solver (default: the run's, or one that fits the guidance), with settings as --sampler.KEY VALUE."""
    steps: Annotated[int | None, Option("N")] = None
    """Points of the run's noise grid to visit (default: all)."""
    voxel_size: Annotated[float | None, Option("MM")] = None
    """Edge of the voxels that are drawn, the run's times a power of 2, where some of its experts work on such voxels or on larger ones:
    of a store, means over cubes of voxels are measured (default: the run's own)."""
    field: Literal["grid", "box"] = "grid"
    """Field of view in which scans of --simulate are measured: the run's grid, or the box that it computes in, around which is only air."""
    settings: Annotated[Path | None, Option("FILE")] = None
    """File that volgen tune wrote: guidance, solver and steps, as far as they are not asked for here."""
    noise: Annotated[NonNegativeFloat | None, Option("SD")] = None
    """Standard deviation of the noise of the data, where 2 is the intensity window (default: what raw data say, else 0.02)."""
    window: Annotated[tuple[float, ...] | None, Option("LOW HIGH")] = None
    """Intensities of a NIfTI image that are air and the brightest tissue (default: as volgen ingest finds them)."""
    centre: Literal["foreground", "grid", "header"] | None = None
    """What comes to the middle of the run's grid: the data's foreground, or the middle of their grid; or whether their header says where
    they lie (default: the header where it fits exactly, else the foreground)."""
    orientation: Annotated[str | None, Option("XYZ")] = None
    """Directions of readout, phase encode and slices of fastMRI data, which the files do not say: three letters of RLAPSI (default: PLS, as
    viewers show axial slices, from the lowest up)."""
    spacing: Annotated[float | None, Option("MM")] = None
    """Distance from a slice of fastMRI data to the next in mm (default: their thickness)."""
    batch_size: Annotated[int, Option("N")] = 1
    """Volumes that ranks hand on together; no volume depends on it."""
    device: Annotated[str | None, Option("DEVICE")] = None
    """Torch device (default: a GPU if there is one)."""
    dtype: Literal["float32", "int16"] = "float32"
    """Voxels in the files; int16 has a slope."""
    memory_gib: Annotated[float, Option("GiB")] = 4.0
    """Memory of a rank for volumes under way, and as much for experts."""
    stages: Annotated[int | None, Option("N")] = None
    """Ranks that each volume passes through, if there are several (default: as many as it takes to hold all experts)."""
    strict: bool = False
    """Whether data and model that disagree end with exit code 1."""


def run(config: Config) -> Answer[Path]:
    """Draws volumes that agree with measurements."""
    from volgen.commands.reconstruct.reconstruct import reconstruct

    return reconstruct(**dict(config))
