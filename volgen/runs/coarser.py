"""A run in larger voxels: experts that work on such voxels, or on larger ones, denoise means over cubes of the run's.

Means over cubes of 2^l voxels of a volume with noise s have noise s / 2^(1.5 l) (:mod:`volgen.models.model`). So an expert that works at
level l is, in the voxels of level l, one of full resolution; an expert of level l + 1 is one of level 1; and the Gaussian of these voxels
is the corner of that of the run's. Experts of finer voxels have nothing to say there, and those that are left own the lowest noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from volgen.core.errors import UserError
from volgen.core.protocols import Shape3
from volgen.experts.ensemble import Ensemble
from volgen.experts.plan import Phase
from volgen.models.denoiser import Preconditioner
from volgen.models.model import sigma_of_means
from volgen.recipe import Recipe
from volgen.runs.choices import coarser
from volgen.runs.trained import TrainedRun


def in_voxels(trained: TrainedRun, voxel_size: float | None) -> TrainedRun:
    """The run in voxels of an edge in mm, its own times a power of 2; the run as it is if None.

    Raises:
        UserError: there are no such voxels, or none of the run's experts works on them or on larger ones.
    """
    level = coarser(trained, voxel_size)
    if not level:
        return trained
    owned = list(zip(trained.phases, trained.ensemble.experts, strict=True))
    kept = [(phase, record) for phase, record in owned if trained.model_of(phase).level >= level]
    if not kept:
        finest = max(trained.model_of(phase).level for phase in trained.phases)
        found = (
            f"{voxel_size:g} mm, and no expert of the run works on voxels of more than {trained.geometry.voxel_size[0] * 2**finest:g} mm"
        )
        raise UserError("--voxel-size", found, "voxels that some of its experts work on", "leave it out, or take a bank of levels")
    lowest = kept[0][1].sigma_low
    records = tuple(
        replace(
            record, index=index, sigma_low=sigma_of_means(record.sigma_low, level) if index else 0.0,
            sigma_high=sigma_of_means(record.sigma_high, level),
        )
        for index, (_, record) in enumerate(kept)
    )  # fmt: skip
    grid = tuple(sigma_of_means(sigma, level) for sigma in trained.ensemble.grid if sigma >= lowest)
    ensemble = Ensemble(records, grid[-1], grid[0], grid, trained.ensemble.files, trained.ensemble.digest)
    return CoarserRun(
        trained.directory, trained.recipe, ensemble, trained.geometry.coarser(level), trained.ledger, trained.provenance,
        trained.fingerprint, trained, level, tuple(phase for phase, _ in kept),
    )  # fmt: skip


@dataclass(frozen=True)
class CoarserRun(TrainedRun):
    """A run in larger voxels; :func:`in_voxels` makes one.

    Attributes:
        base: the run in its own voxels.
        doubled: how often its voxels are doubled.
        kept: experts that are left, lowest noise first.
    """

    base: TrainedRun
    doubled: int
    kept: tuple[Phase, ...]

    @property
    def level(self) -> int:
        """How often its voxels are doubled."""
        return self.doubled

    @property
    def whole(self) -> Shape3:
        """Those of a volume of larger voxels."""
        return self.geometry.grid

    @property
    def piece(self) -> Shape3:
        """A whole volume."""
        return self.geometry.grid

    @property
    def phases(self) -> list[Phase]:
        """The experts that are left."""
        return list(self.kept)

    def model_of(self, phase: Phase) -> Recipe:
        """What an expert is made of, its level counted from these voxels on."""
        recipe = self.base.model_of(phase)
        return recipe.model_copy(update={"level": recipe.level - self.doubled})

    def preconditioner(self, device: torch.device) -> Preconditioner:
        """That of means over cubes of the run's voxels."""
        return self.base.preconditioner(device).coarse(self.doubled)
