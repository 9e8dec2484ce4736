"""What a run draws, beside the people it was trained on: copies, and the twins of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volgen.commands.audit.people import Examined, check_cohort, trained_on
from volgen.core.errors import UserError
from volgen.core.progress import progress
from volgen.core.registry import config_class
from volgen.data.store import Store
from volgen.evaluation import memorisation
from volgen.images.blocks import block_means
from volgen.images.intensity import from_model
from volgen.runs.choices import visited
from volgen.runs.draw import Drawing
from volgen.runs.trained import TrainedRun

SIGNIFICANT = 0.01
MOST = 0.5
"""Share of twins that may be nearer to training people than to each other."""
Unit = NDArray[np.float32]


def drawn(trained: TrainedRun, count: int, seed: int, device: torch.device) -> list[Unit]:
    """Volumes of a run in [0, 1], averaged over cubes; by its own solver, at all of its noise levels."""
    found: list[Unit] = []
    edge = memorisation.cube(trained.geometry.shape)

    def take(_: int, volume_CXYZ: Tensor) -> None:
        found.append(block_means(from_model(trained.geometry.whole(volume_CXYZ[0])).numpy(), [edge] * 3))

    white = config_class("volgen.sampling.noises", "white")()
    grid = visited(trained, None)
    drawing = Drawing(
        trained, trained.preconditioner(device), trained.assembly(), trained.recipe.sampler, white, grid, device,
        climbs=trained.climbs(grid),
    )  # fmt: skip
    with progress("sampling", drawing.steps(count)) as ticker:
        drawing.draw(seed, range(count), take, ticker.advance)
    return found


def placed(people: Sequence[Examined]) -> memorisation.People:
    """Everybody as points."""
    scans = [(number, person, scan) for number, person in enumerate(people) for scan in person.scans]
    edge = memorisation.cube(scans[0][2].shape)
    volumes = [block_means(person.store.read_unit(scan), [edge] * 3) for _, person, scan in scans]
    return memorisation.points(volumes, [number for number, _, _ in scans], [person.inside for _, person, _ in scans])


def copies(points: memorisation.People, volumes: Sequence[Unit], seed: int) -> dict[str, Any]:
    """:func:`volgen.evaluation.memorisation.nearest` with a verdict in words."""
    found = memorisation.nearest(points, volumes, seed)
    if found["copies"]:
        verdict = (
            f"copies: {found['copies']} of {found['drawn']} volumes are nearer to somebody trained on than a fifth of the smallest distance"
            " between any two people"
        )
    elif found["p_value"] < SIGNIFICANT:
        verdict = (
            f"drawn to its training people: for {found['nearest_is_member']} of {found['drawn']} volumes the nearest person was trained on,"
            f" {found['expected']:.1f} would be by chance (p = {found['p_value']:.2g})"
        )
    else:
        verdict = "no sign of copying: volumes are as near to people that the model never saw as to those it was trained on"
    return {**found, "leaks": bool(found["copies"] or found["p_value"] < SIGNIFICANT), "verdict": verdict}


def check_twin(run: TrainedRun, twin: TrainedRun, members: Store) -> None:
    """Makes sure that two runs share a recipe and a store, but no patient.

    Raises:
        UserError: they do not.
    """
    one, two = run.recipe.data.half, twin.recipe.data.half
    if one is None or two is None or one.seed != two.seed or one.side == two.side:
        found = "is not the other half of the run: its data.half is " + (str(two.model_dump()) if two else "none")
        side = "b" if one is None or one.side == "a" else "a"
        expected = f"data.half.seed {one.seed if one else 1} and side {side}"
        raise UserError("--twin", found, expected, "train both by one recipe, with --data.half.side a and --data.half.side b")
    if not run.geometry.alike(twin.geometry) or run.ensemble.grid != twin.ensemble.grid:
        raise UserError("--twin", "has another shape or box, or other noise levels", "a run by the same recipe")
    check_cohort(twin, members)


def compared_with_twin(
    points: memorisation.People,
    people: Sequence[Examined],
    volumes: Sequence[Unit],
    twin: TrainedRun,
    others: Sequence[Unit],
    members: Store,
) -> dict[str, Any]:
    """:func:`volgen.evaluation.memorisation.twins` with a verdict in words."""
    also = [trained_on(twin, person, members) for person in people for _ in person.scans]
    found = memorisation.twins(points, volumes, others, also)
    leaks = found["nearer_to_training"] > MOST * found["pairs"] and found["p_value"] < SIGNIFICANT
    if leaks:
        verdict = (
            f"memorises: {found['nearer_to_training']} of {found['pairs']} pairs are more like people of their own halves than like each"
            " other, or like people of the other half"
        )
    else:
        verdict = "generalises: from the same seed both halves' models draw volumes more alike than each is to those it was trained on"
        if found["twins"] < min(found["first_to_training"], found["second_to_training"]):
            verdict = "undecided: twins are less alike than volumes and training people, but not in most pairs for both models"
    return {**found, "leaks": leaks, "verdict": verdict}
