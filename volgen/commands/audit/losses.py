"""The denoising losses of people under a run: what membership inference looks at.

Legend: P people, L noise levels, B noises.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volgen.commands.audit.people import Examined
from volgen.core.errors import UserError
from volgen.core.given import Examples
from volgen.core.progress import progress
from volgen.core.protocols import Denoiser
from volgen.core.rng import normal
from volgen.core.run_files import METRICS
from volgen.data.scan import VolumeScan
from volgen.images.intensity import to_model
from volgen.models.denoiser import Preconditioner
from volgen.runs.trained import TrainedRun
from volgen.training.loss import denoising_loss


def levels(trained: TrainedRun, count: int) -> list[float]:
    """``count`` noise levels of a run, evenly over its grid, the ends left out where there are enough."""
    grid = list(trained.ensemble.grid)
    places = np.unique([int((place + 0.5) / count * len(grid)) for place in range(count)])
    return [grid[place] for place in places]


def losses(
    trained: TrainedRun,
    people: Sequence[Examined],
    sigmas: Sequence[float],
    draws: int,
    seed: int,
    device: torch.device,
    batch_size: int = 1,
) -> NDArray[np.float64]:
    """Mean losses [P, L], positive, over all scans of a person and ``draws`` noises, the same noises for everybody and every run.

    Args:
        trained: the run.
        people: those of the run's shape.
        sigmas: noise levels, descending.
        draws: noises for each scan and level.
        seed: seed of the noises.
        device: where the denoisers compute.
        batch_size: noises denoised together.

    Raises:
        UserError: a denoiser has diverged, or a file of the run or of a store is damaged.
    """
    preconditioner = trained.preconditioner(device)
    found = np.zeros((len(people), len(sigmas)))
    with trained.bank(preconditioner, device, sigmas) as bank, progress(f"losses of {trained.recipe.name}", found.size) as ticker:
        for place, sigma in enumerate(sigmas):
            for number, person in enumerate(people):
                per_scan = [_loss(bank, trained, preconditioner, volume(person, scan), place, sigma, draws, seed, device, batch_size)
                            for scan in range(len(person.scans))]  # fmt: skip
                found[number, place] = max(float(np.mean(per_scan)), np.finfo(np.float64).tiny)
                ticker.advance(note=f"sigma {sigma:.3g}")
    if not np.isfinite(found).all():
        do = f"the expert that owns it has diverged: look at its losses in {METRICS} and train it again"
        bad = sigmas[int(np.argmin(np.isfinite(found).all(axis=0)))]
        raise UserError(str(trained.directory), f"its losses at sigma {bad:.4g} are not finite", "numbers", do)
    return found


def volume(person: Examined, scan: int) -> Tensor:
    """One scan of a person, float32 [X, Y, Z] in [-1, 1]."""
    return to_model(torch.from_numpy(person.store.read_unit(person.scans[scan])))


def _loss(
    bank: Denoiser, trained: TrainedRun, preconditioner: Preconditioner, volume_XYZ: Tensor, place: int, sigma: float, draws: int,
    seed: int, device: torch.device, batch_size: int,
) -> float:  # fmt: skip
    shape = trained.geometry.shape
    total = 0.0
    for first in range(0, draws, batch_size):
        chosen = range(first, min(first + batch_size, draws))
        cuts = [trained.recipe.assembly.cut(VolumeScan(shape, lambda: volume_XYZ), seed, "audit", place, draw) for draw in chosen]
        examples = Examples.joined(cuts).to(device)
        x_BCXYZ = examples.x_BCXYZ
        z_BCXYZ = torch.stack([normal(x_BCXYZ.shape[1:], seed, "audit noise", place, draw) for draw in chosen]).to(device)
        level_B = torch.full((len(chosen),), sigma, device=device)
        with torch.no_grad():
            loss_B = denoising_loss(bank, preconditioner.weight, x_BCXYZ, z_BCXYZ, level_B, examples.given)
            total += float(loss_B.sum(dtype=torch.float64))
    return total / draws
