"""A worse denoiser of the same people than a run's, for guidances that move away from one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from volgen.core.errors import UserError
from volgen.core.protocols import Denoiser
from volgen.core.run_files import WEIGHTS, of_expert
from volgen.experts.ensemble import ExpertRecord
from volgen.experts.plan import SHARED
from volgen.models.denoiser import Preconditioner
from volgen.runs.record import PhaseRecord
from volgen.runs.trained import TrainedRun, open_run

OPTION = "--guidance.weak"


def fingerprint_of(name: str) -> str:
    """Fingerprint of another run that a guidance names; "" where it names none, or the run's own network.

    Raises:
        UserError: there is no such run.
    """
    return "" if name in ("", SHARED) else open_run(Path(name)).fingerprint


@contextmanager
def weak(
    run: TrainedRun, name: str, preconditioner: Preconditioner, device: torch.device, grid: Sequence[float], capacity: int, *, corners: bool
) -> Iterator[Denoiser | None]:
    """The denoiser that a guidance names, for the length of a block; None if it names none.

    Args:
        run: the run that volumes are drawn from.
        name: ``shared``, for the network that its experts were started from; the directory of another run; or "".
        preconditioner: the run's, on the device.
        device: where it computes.
        grid: noise levels that it will be asked about.
        capacity: experts in memory.
        corners: whether it is asked about corners of volumes, as the run's experts of high noise see them.

    Raises:
        UserError: there is no such network, or the other run draws other volumes.
    """
    if not name:
        yield None
        return
    if name == SHARED:
        other, fitted = _shared(run), preconditioner
    else:
        other = open_run(Path(name))
        _check(run, other, name, grid, corners)
        fitted = other.preconditioner(device)
    with other.bank(fitted, device, grid, capacity, corners=corners) as bank:
        yield bank


def _shared(run: TrainedRun) -> TrainedRun:
    """The run with the shared network of its model in place of each expert."""
    of_model = {phase.model: phase for phase in run.recipe.phases() if phase.index is None}
    if not of_model:
        found = "the run has no shared network (experts.shared_steps is 0)"
        raise UserError(OPTION, found, "expected, or the directory of a run that was trained less")
    experts: list[ExpertRecord] = []
    for phase, record in zip((phase for phase in run.recipe.phases() if phase.index is not None), run.ensemble.experts, strict=True):
        shared = of_model.get(phase.model)
        done = None if shared is None else PhaseRecord.read(run.paths.phase(shared.name))
        if shared is None or done is None:
            raise UserError(OPTION, f"nothing is left of the network that expert {record.index} was started from", "a run that has it")
        weights = of_expert(shared.name, WEIGHTS)
        experts.append(replace(record, weights=weights, sha256=done.sha256, parameters=done.parameters, steps=done.steps))
    return replace(run, ensemble=replace(run.ensemble, experts=tuple(experts)))


def _check(run: TrainedRun, other: TrainedRun, name: str, grid: Sequence[float], corners: bool) -> None:
    if other.piece != run.piece or other.latents != run.latents or (other.geometry.affine != run.geometry.affine).any():
        found = f"draws {list(other.piece)} voxels in another frame or of another size"
        raise UserError(f"{OPTION} {name}", found, f"those of the run, {list(run.piece)}")
    if other.ensemble.sigma_max < max(grid):
        expected = f"noise levels up to {max(grid):.4g}"
        raise UserError(f"{OPTION} {name}", f"knows noise up to {other.ensemble.sigma_max:.4g}", expected)
    if corners and other.levels(grid) != run.levels(grid):
        raise UserError(f"{OPTION} {name}", "has experts of other levels", "the same levels, or --full")
