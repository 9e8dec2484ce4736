"""Batches of training volumes: sharded over ranks, and a function of (seed, step) alone, so that resuming needs no state."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, PositiveInt

from volgen.core.config import Config


class AugmentConfig(Config):
    """Random transforms of a training volume (TorchIO). All zero: none."""

    rotation_degrees: NonNegativeFloat = 0.0
    """Largest rotation about each axis."""
    translation_mm: NonNegativeFloat = 0.0
    """Largest shift along each axis."""
    scale: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Largest relative change of size along each axis."""
    flip_left_right: bool = False
    """Mirror half of the volumes. Brains are not symmetric: this trades the true asymmetry for more data."""


class StreamConfig(Config):
    """What is read, and how much of it at once."""

    store: str
    """Path of a Zarr store that ``volgen ingest`` made; relative paths start at the working directory."""
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Voxels along the RAS+ axes; must be that of the store (stated here so that a dry run needs no data)."""
    batch_size: PositiveInt = 4
    """Volumes in one optimiser step, over all ranks and accumulation steps together."""
    workers: PositiveInt = 2
    """Threads that decode and augment ahead of the training loop."""
    cache_gib: NonNegativeFloat = 1.0
    """Decoded volumes kept in memory by each rank."""
    augment: AugmentConfig = AugmentConfig()
    """Random transforms of training volumes."""
