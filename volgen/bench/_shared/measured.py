"""What benchmarks ask for that measure people of a store in k-space, and draw what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from volgen.core.config import Config as BaseConfig
from volgen.core.options import Positional


class MeasuredConfig(BaseConfig):
    """Which run, whom it reconstructs, and from what."""

    run: Annotated[Path, Positional("RUN")]
    """A finished run that draws whole volumes."""
    store: str
    """Store with people whom the run has not seen, on its grid."""
    coils: PositiveInt = 8
    """How many coils are made up, of k-space."""
    phase: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    """Standard deviation of the image's smooth phase, in radians."""
    noise: NonNegativeFloat = 0.02
    """Standard deviation of the noise, where 2 is the intensity window."""
    voxel_size: PositiveFloat | None = None
    """Edge in mm of the voxels that are reconstructed, the run's times a power of 2 (default: the run's own)."""
    steps: PositiveInt | None = 12
    """Noise levels of the run that are visited (all of them if it has no more)."""
    seed: NonNegativeInt = 0
    """Seed of noise and samples."""
    device: str | None = None
    """Torch device (default: a GPU if there is one)."""
