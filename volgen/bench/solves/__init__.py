"""What it costs to make volumes agree with k-space, beside what the network costs: one solution by conjugate gradients.

One head of a store is measured (a Poisson disc, coils with a smooth phase), and at some of the run's noise levels the network is asked, and
what it says is corrected, as `gauss` does it. Processor seconds: with one thread (OMP_NUM_THREADS=1) they are those of a core, whatever
else the machine does.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from volgen.bench._shared.scene import Scene, k_space, scene_of
from volgen.commands.bench.result import Row
from volgen.core.config import Config as BaseConfig
from volgen.core.given import NOTHING, Given
from volgen.core.options import Positional
from volgen.core.progress import progress
from volgen.core.protocols import Measurement, Operator
from volgen.parallel.device import usable_device
from volgen.runs.choices import visited
from volgen.runs.coarser import in_voxels
from volgen.runs.simulated import SimulatedScans
from volgen.runs.trained import open_run
from volgen.sampling.guidances.gauss import Config as Gauss

T = TypeVar("T")


class Config(BaseConfig):
    """Which run, and what is solved."""

    run: Annotated[Path, Positional("RUN")]
    """A finished run that draws whole volumes."""
    store: str
    """Store on the run's grid; the first person of its test split is measured."""
    coils: tuple[Annotated[int, Field(ge=1, le=128)], ...] = (1, 8)
    """How many coils are made up."""
    phase: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    """Standard deviation of the image's smooth phase, in radians."""
    acceleration: Annotated[float, Field(ge=1.0)] = 8.0
    """How much less than all of k-space is measured."""
    noise: NonNegativeFloat = 0.02
    """Standard deviation of the noise, where 2 is the intensity window."""
    voxel_size: PositiveFloat | None = None
    """Edge in mm of the voxels that are drawn, the run's times a power of 2 (default: the run's own)."""
    levels: PositiveInt = 3
    """Noise levels of the run at which is solved, evenly."""
    iterations: PositiveInt = 60
    """Most conjugate gradients of a solution."""
    tolerance: Annotated[float, Field(gt=0.0, lt=1.0)] = 3e-3
    """What may be left of a system's right side, relative to it."""
    seed: NonNegativeInt = 0
    """Seed of the noise."""
    device: str | None = None
    """Torch device (default: a GPU if there is one)."""


def run(config: Config) -> list[Row]:
    """Seconds of one evaluation of the network and of one solution, means over noise levels, and the memory that it took.

    Raises:
        UserError: the run or the store is damaged, or they do not fit each other.
    """
    trained, device = in_voxels(open_run(config.run), config.voxel_size), usable_device(config.device)
    grid = visited(trained, max(2, min(config.levels, len(trained.ensemble.grid))))[: config.levels]
    at = scene_of(trained, grid, device, config.seed, 1)
    rows = [Row("voxels", math.prod(trained.geometry.grid), "")]
    with progress("bench", len(config.coils) * len(grid)) as ticker:
        for coils in config.coils:
            operator = k_space(coils, config.phase, config.acceleration)
            scans = SimulatedScans(config.store, "test", 1, operator, config.noise, config.seed, trained.level, "box")
            rows += _solved(config, at(scans, scans.labels[0]), coils, ticker.advance)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return [*rows, Row("most memory of the process", peak / 2**30, "GiB")]


class _Counted(Operator):
    """An operator that counts how often it is applied."""

    def __init__(self, operator: Operator) -> None:
        self._operator, self.count = operator, 0
        self.apart = operator.apart

    def apply(self, x_BCXYZ: Tensor) -> Tensor:
        self.count += 1
        return self._operator.apply(x_BCXYZ)

    def adjoint(self, data: Tensor) -> Tensor:
        return self._operator.adjoint(data)


@dataclass(frozen=True)
class _Said:
    """A denoiser that has been asked already."""

    expected: Tensor

    def __call__(self, y_BCXYZ: Tensor, sigma_B: Tensor, given: Given = NOTHING) -> Tensor:
        return self.expected


def _solved(config: Config, scene: Scene, coils: int, done: Callable[[], None]) -> list[Row]:
    measured = scene.measurement
    counted = _Counted(measured.operator)
    guidance = Gauss(iterations=config.iterations, tolerance=config.tolerance).build()
    drawing = scene.drawing(guidance, scene.trained.recipe.sampler)
    problem = replace(drawing.problem, measurement=Measurement(counted, measured.data, measured.noise))
    network, solving, applied = 0.0, 0.0, 0
    with torch.no_grad(), drawing.bank(scene.grid, 2) as bank:
        for sigma in scene.grid:
            x = problem.prior(scene.noise("solves", coils), sigma)
            level = torch.full((1,), sigma, device=scene.device)
            bank(x, level)  # its weights are there now
            network_at, expected = _timed(partial(bank, x, level))
            guided = guidance.guide(_Said(expected), problem, lambda k: scene.noise("solves", k))
            guided(x, level)  # what is computed once for an instrument is there now
            counted.count = 0
            solving_at, _ = _timed(partial(guided, x, level))
            network, solving, applied = network + network_at, solving + solving_at, applied + counted.count - 1
            done()
    steps = len(scene.grid)
    name = f"{coils} coil{'s' if coils > 1 else ''}"
    return [
        Row(f"{name}: network", network / steps, "s"), Row(f"{name}: solution", solving / steps, "s"),
        Row(f"{name}: iterations", applied / steps, ""),
        Row(f"{name}: iteration", solving / max(applied, 1), "s"),
        Row(f"{name}: solution / network", solving / network, ""),
    ]  # fmt: skip


def _timed(compute: Callable[[], T]) -> tuple[float, T]:
    begun = time.process_time()
    found = compute()
    return time.process_time() - begun, found


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each number of coils."""
    by_name = {row.name: row.value for row in rows}
    lines = [
        f"{by_name['voxels']:.0f} voxels; processor seconds; {by_name['most memory of the process']:.2f} GiB at most.", "",
        "| coils | network, one evaluation | one solution | iterations | one iteration | solution / network |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name in dict.fromkeys(row.name.partition(": ")[0] for row in rows[1:-1]):
        network, solving, count, each, ratio = (
            by_name[f"{name}: {what}"] for what in ("network", "solution", "iterations", "iteration", "solution / network")
        )
        lines.append(f"| {name.partition(' ')[0]} | {network:.3g} | {solving:.3g} | {count:.1f} | {each:.3g} | {ratio:.2f} |")
    return "\n".join(lines)
