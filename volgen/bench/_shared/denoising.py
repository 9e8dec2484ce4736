"""Errors of denoisers on people whom they have not seen: every one denoises the same volumes under the same noise.

A level's error is weighted as in training, so that 1 is what the preconditioner's own variance predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.protocols import Denoiser
from volgen.core.rng import normal
from volgen.data.record import Split
from volgen.data.store import Store
from volgen.images.intensity import to_model
from volgen.models.denoiser import Preconditioner
from volgen.runs.trained import TrainedRun

Errors = NDArray[np.float64]


class PeopleOptions(Protocol):
    """Whose scans, and how they are noised."""

    @property
    def split(self) -> Split: ...

    @property
    def volumes(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Unseen:
    """What is denoised: volumes [X, Y, Z] in [-1, 1] and, for each, the number of its person."""

    volumes: list[Tensor]
    person: NDArray[np.int64]


def read(config: PeopleOptions, store: Store, runs: Sequence[TrainedRun]) -> Unseen:
    records = store.split(config.split)[: config.volumes]
    if not records:
        raise UserError(str(store.path), f"has nobody in its {config.split} split", "people whom the runs have not seen", "choose --split")
    for trained in runs:
        if trained.recipe.assembly.piecewise:
            found = f"draws volumes in pieces (assembly.kind '{trained.recipe.assembly.kind}')"
            raise UserError(str(trained.directory), found, "runs that denoise whole volumes: their errors are comparable")
        trained.recipe.build().fits(trained.recipe.sampler.build(), trained.ensemble.grid, guided=True, voxels=True)
        frame, first = trained.geometry, runs[0].geometry
        if not frame.alike(first):
            found = f"computes on {list(frame.grid)} voxels at {list(frame.place.start)}"
            raise UserError(str(trained.directory), found, f"{list(first.grid)} at {list(first.place.start)}, as {runs[0].directory}")
        strange = next((record for record in records if record.shape != trained.geometry.shape), None)
        if strange is not None:
            found = f"scan '{strange.id}' has shape {list(strange.shape)}"
            raise UserError(str(store.path), found, f"{list(trained.geometry.shape)}, that of {trained.directory}")
    place = runs[0].geometry.place
    volumes = [to_model(torch.from_numpy(store.read_block(record, place.start, place.size))) for record in records]
    return Unseen(volumes, np.unique([record.patient for record in records], return_inverse=True)[1])


def names_of(directories: Sequence[Path]) -> list[str]:
    """Names of runs: as much of the end of each path as tells them apart."""
    parts = [directory.resolve().parts for directory in directories]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("RUN", "names one directory twice", "different runs")


def errors_of(
    denoise: Denoiser, reference: Preconditioner, volumes: Sequence[Tensor], grid: Sequence[float], config: PeopleOptions,
    device: torch.device, done: Callable[[], None],
) -> Errors:  # fmt: skip
    """Weighted squared errors [volumes, grid]; the noise depends on seed, volume and level alone."""
    errors = np.empty((len(volumes), len(grid)))
    for column, sigma in enumerate(grid):  # every expert is loaded once
        for start in range(0, len(volumes), config.batch_size):
            part = range(start, min(start + config.batch_size, len(volumes)))
            x0_BCXYZ = torch.stack([volumes[index][None] for index in part]).to(device)
            noise = torch.stack([normal(x0_BCXYZ.shape[1:], config.seed, "eval", index, str(sigma)) for index in part])
            sigma_B = torch.full((len(part),), sigma, device=device)
            with torch.no_grad():
                error = denoise(x0_BCXYZ + sigma * noise.to(device), sigma_B) - x0_BCXYZ
                weighted = reference.weight(sigma_B) * error.square().mean(dim=(1, 2, 3, 4))
            errors[list(part), column] = weighted.double().cpu().numpy()
        done()
    return errors
