"""A worse denoiser of the same people than a run's, for guidances that move away from one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import NOTHING, Given
from volgen.core.manifest import FILES
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
    run: TrainedRun,
    name: str,
    preconditioner: Preconditioner,
    device: torch.device,
    grid: Sequence[float],
    capacity: int,
    *,
    corners: bool,
    mirrored: bool = True,
) -> Iterator[Denoiser | None]:
    """The denoiser that a guidance names, for the length of a block; None if it names none.

    Args:
        run: the run that volumes are drawn from.
        name: ``shared``, for the network that its experts were started from, or those of the run that it began from; the directory of
            another run; or "".
        preconditioner: the run's, on the device.
        device: where it computes.
        grid: noise levels that it will be asked about; none if it will not be.
        capacity: experts in memory.
        corners: whether it is asked about corners of volumes, as the run's experts of high noise see them.
        mirrored: whether it is asked about both sides where its run's denoisers are.

    Raises:
        UserError: there is no such network, or the other run draws other volumes.
    """
    if not name or not grid:
        yield _never if name else None
        return
    began = _beginning(run) if name == SHARED else name
    if began is None:
        other, fitted = _shared(run, grid), preconditioner
    else:
        other = open_run(Path(began))
        _check(run, other, began, grid, corners)
        fitted = other.preconditioner(device)
        other = _shared(other, grid) if name == SHARED else other
    with (other if mirrored else _from_one_side(other)).bank(fitted, device, grid, capacity, corners=corners) as bank:
        yield bank


def _never(y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
    """A denoiser that nobody asks."""
    raise AssertionError(f"the weak denoiser was asked at {float(sigma_B[0]):g}, where nothing is guided")


def _beginning(run: TrainedRun) -> str | None:
    """The run that has the shared network: None if it is this one, or nobody; else the one that this one's experts began from."""
    own = any(phase.shared for phase in run.recipe.phases())
    return None if own else getattr(run.recipe.start, "address", None)


def _shared(run: TrainedRun, grid: Sequence[float]) -> TrainedRun:
    """The run with the shared network of its model in place of each expert that owns a noise level of ``grid``."""
    of_model = {phase.model: phase for phase in run.recipe.phases() if phase.shared}
    if not of_model:
        found = "the run has no shared network (experts.shared_steps is 0)"
        raise UserError(OPTION, found, "expected, or the directory of a run that was trained less")
    listed = (run.provenance or {}).get(FILES) or {}
    own = {phase.index: phase for phase in run.recipe.phases()}
    experts: list[ExpertRecord] = []
    for record in run.ensemble.experts:
        phase = own[record.index]
        if not any(sigma in phase.span for sigma in grid):
            experts.append(record)
            continue
        name = of_model[phase.model].name
        done, weights = PhaseRecord.read(run.paths.phase(name)), of_expert(name, WEIGHTS)
        digest = done.sha256 if done else listed.get(weights)  # a release leaves records of phases out, and lists the weights
        if digest is None:
            raise UserError(OPTION, f"nothing is left of the network that expert {record.index} was started from", "a run that has it")
        steps = done.steps if done else run.recipe.experts.shared_steps
        experts.append(replace(record, weights=weights, sha256=digest, steps=steps))
    return replace(run, ensemble=replace(run.ensemble, experts=tuple(experts)))


def _from_one_side(run: TrainedRun) -> TrainedRun:
    """The run with denoisers that are not asked about mirror images."""
    models = tuple(model.model_copy(update={"mirrored": None}) for model in run.recipe.experts.models)
    experts = run.recipe.experts.model_copy(update={"models": models})
    return replace(run, recipe=run.recipe.model_copy(update={"mirrored": False, "experts": experts}))


def _check(run: TrainedRun, other: TrainedRun, name: str, grid: Sequence[float], corners: bool) -> None:
    if other.piece != run.piece or other.latents != run.latents or (other.geometry.affine != run.geometry.affine).any():
        found = f"draws {list(other.piece)} voxels in another frame or of another size"
        raise UserError(f"{OPTION} {name}", found, f"those of the run, {list(run.piece)}")
    if other.ensemble.sigma_max < max(grid):
        expected = f"noise levels up to {max(grid):.4g}"
        raise UserError(f"{OPTION} {name}", f"knows noise up to {other.ensemble.sigma_max:.4g}", expected)
    if corners and other.levels(grid) != run.levels(grid):
        raise UserError(f"{OPTION} {name}", "has experts of other levels", "the same levels, or --full")
