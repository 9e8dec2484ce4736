"""Volumes out of a run, in waves that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from volgen.core.progress import progress
from volgen.core.protocols import Shape3
from volgen.experts.ensemble import Ensemble
from volgen.models.assembly import Assembly, Place
from volgen.models.denoiser import Preconditioner
from volgen.samplers import _driver
from volgen.stages._trained_run import TrainedRun

BYTES_PER_WEIGHT = 4
BYTES_PER_VOXEL = 8  # a float32 state, and as much again for a solver that remembers


@dataclass(frozen=True)
class Drawing:
    """How volumes are drawn from a run.

    Attributes:
        run: the run.
        preconditioner: of it, on the device.
        assembly: of it.
        solver: configuration of a sampler.
        noises: configuration of a noise.
        grid: noise levels to visit.
        device: where the denoisers compute.
        batch_size: volumes denoised together.
        memory_gib: host memory for volumes that are under way, and for experts of runs that draw piece by piece.
    """

    run: TrainedRun
    preconditioner: Preconditioner
    assembly: Assembly
    solver: Any
    noises: Any
    grid: Sequence[float]
    device: torch.device
    batch_size: int = 1
    memory_gib: float = 4.0

    def draw(self, seed: int, indices: Sequence[int], take: Callable[[int, Tensor], None]) -> None:
        """Draws volumes and hands each over: its index and [1, X, Y, Z], nominally in [-1, 1]. Volume i depends on ``seed`` and i alone."""
        trained, whole = self.run, self.run.geometry.shape
        fitting = self.memory_gib * 2**30 / (BYTES_PER_VOXEL * math.prod(whole))
        wave = max(self.batch_size, int(min(fitting, len(indices))))
        pieces = self.assembly.pieces(whole)
        resident = 2 if pieces == 1 else _resident(trained.ensemble, self.memory_gib)
        with (
            trained.bank(self.preconditioner, self.device, self.grid, resident) as bank,
            progress("sampling", len(indices) * pieces * len(self.grid)) as ticker,
        ):

            def draw(indices: Sequence[int], place: Place, known: Sequence[Tensor]) -> list[Tensor]:
                def there(shape: Shape3, seed: int, *key: int | str) -> Tensor:
                    drawn: Tensor = self.noises.draw(whole, seed, *key)
                    # A copy: a view would keep the noise of the whole volume for the sake of a slab.
                    return drawn if pieces == 1 else drawn[(slice(None), *place)].clone()

                return _driver.sample(
                    bank, self.solver.build(), self.grid, seed=seed, indices=indices, shape=trained.recipe.piece,
                    batch_size=self.batch_size, device=self.device, start=self.preconditioner.start, noise=there, known=known,
                    done=ticker.advance,
                )  # fmt: skip

            for first in range(0, len(indices), wave):
                chosen = indices[first : first + wave]
                for index, volume in zip(chosen, self.assembly.generate(draw, whole, seed, chosen), strict=True):
                    take(index, volume)


def _resident(ensemble: Ensemble, memory_gib: float) -> int:
    """How many experts fit into memory; at least two, at most all."""
    largest = max(expert.parameters for expert in ensemble.experts)
    return max(2, min(len(ensemble.experts), int(memory_gib * 2**30 / (BYTES_PER_WEIGHT * largest))))
