"""The denoising losses of people under a run: what membership inference looks at.

Legend: P people, L noise levels, B noises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volgen.commands.audit.people import Examined
from volgen.core.errors import UserError
from volgen.core.given import Examples
from volgen.core.progress import progress
from volgen.core.protocols import Cut, Scan
from volgen.core.rng import normal, uniform
from volgen.core.run_files import METRICS
from volgen.data.scan import VolumeScan
from volgen.images.box import BoxConfig
from volgen.images.intensity import to_model
from volgen.methods import Fitted
from volgen.runs.trained import TrainedRun
from volgen.training.objective import Network, Objective


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
    fitted, where = Fitted(trained.preconditioner(device), space=trained.space(device)), trained.geometry.place
    phases = {phase.index: phase for phase in trained.recipe.phases()}
    found = np.zeros((len(people), len(sigmas)))
    with trained.bank(fitted.preconditioner, device, sigmas) as bank, progress(f"losses of {trained.recipe.name}", found.size) as ticker:
        for place, sigma in enumerate(sigmas):
            index = bank.owner(sigma)
            own = trained.recipe.of(phases[index])
            method = own.build()
            network = method.forward(bank.network(index))
            objective = method.objective(phases[index], fitted, partial(_only, sigma))
            for number, person in enumerate(people):
                per_scan = [_loss(objective, network, own.cut, examined(person, scan, where), place, draws, seed, device, batch_size)
                            for scan in range(len(person.scans))]  # fmt: skip
                found[number, place] = max(float(np.mean(per_scan)), np.finfo(np.float64).tiny)
                ticker.advance(note=f"sigma {sigma:.3g}")
    if not np.isfinite(found).all():
        do = f"the expert that owns it has diverged: look at its losses in {METRICS} and train it again"
        bad = sigmas[int(np.argmin(np.isfinite(found).all(axis=0)))]
        raise UserError(str(trained.directory), f"its losses at sigma {bad:.4g} are not finite", "numbers", do)
    return found


def examined(person: Examined, scan: int, place: BoxConfig) -> VolumeScan:
    """What a run computes on of one scan of a person, and what the store says of it."""
    record = person.scans[scan]
    return VolumeScan(
        place.size, lambda: to_model(torch.from_numpy(person.store.read_block(record, place.start, place.size))), record.to_dict()
    )


def _loss(
    objective: Objective, network: Network, cut: Cut, scan: Scan, place: int, draws: int, seed: int,
    device: torch.device, batch_size: int,
) -> float:  # fmt: skip
    total = 0.0
    for first in range(0, draws, batch_size):
        chosen = range(first, min(first + batch_size, draws))
        cuts = [cut(scan, seed, "audit", place, draw) for draw in chosen]
        with torch.no_grad():
            loss_B = objective.loss(network, Examples.joined(cuts).to(device), _AuditDraws(seed, place, chosen))
            total += float(loss_B.sum(dtype=torch.float64))
    return total / draws


def _only(sigma: float, _: float) -> float:
    """A distribution of one noise level."""
    return sigma


@dataclass(frozen=True)
class _AuditDraws:
    """The same for everybody and every run."""

    seed: int
    place: int
    chosen: Sequence[int]
    step: int = 1

    def quantiles(self, purpose: str = "sigma") -> list[float]:
        return [uniform(self.seed, f"audit {purpose}", self.place, draw) for draw in self.chosen]

    def normal(self, shape: Sequence[int], purpose: str = "noise") -> Tensor:
        return torch.stack([normal(shape, self.seed, f"audit {purpose}", self.place, draw) for draw in self.chosen])
