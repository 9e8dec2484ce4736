"""What every row of the benchmark gets: a run, and one head that was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.protocols import Guidance, Measurement, Problem
from volgen.core.registry import config_class
from volgen.core.rng import normal
from volgen.models.assembly import Assembly
from volgen.models.denoiser import Preconditioner
from volgen.runs.draw import Drawing
from volgen.runs.simulated import MeasuredHead, SimulatedScans
from volgen.runs.trained import TrainedRun
from volgen.sampling.guidances.none import UNGUIDED


@dataclass(frozen=True)
class Made:
    """What a row makes of a measurement, in the model range, [1, X, Y, Z] each.

    Attributes:
        samples: independent volumes; none if the row gives one estimate.
        estimate: the volume to expect; that of the samples is their mean, so None there.
    """

    samples: Sequence[Tensor]
    estimate: Tensor | None = None


@dataclass(frozen=True)
class Scene:
    """A run and a head.

    Attributes:
        trained: the run.
        preconditioner: its preconditioner, on the device.
        assembly: its assembly.
        grid: noise levels to visit.
        device: where everything is computed.
        head: what was measured of the head.
        seed: seed of what is drawn.
        count: how many volumes are drawn.
    """

    trained: TrainedRun
    preconditioner: Preconditioner
    assembly: Assembly
    grid: Sequence[float]
    device: torch.device
    head: MeasuredHead
    seed: int
    count: int

    @property
    def measurement(self) -> Measurement:
        """What was measured."""
        return self.head.seen.measurement

    @property
    def problem(self) -> Problem:
        """What is known of the prior, and what was measured."""
        return self.drawing(UNGUIDED, self.trained.recipe.sampler).problem

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a batch of one volume that is drawn."""
        return (1, 1, *self.trained.geometry.grid)

    def drawing(self, guidance: Guidance, solver: Any) -> Drawing:
        """How volumes are drawn from the run so that they agree with the measurement."""
        white = config_class("volgen.sampling.noises", "white")()
        return Drawing(
            self.trained, self.preconditioner, self.assembly, solver, white, self.grid, self.device, guidance, self.measurement
        )  # fmt: skip

    def noise(self, *key: int | str) -> Tensor:
        """Standard normal noise [1, 1, X, Y, Z] of a key."""
        return normal(self.shape[1:], self.seed, *key)[None].to(self.device)

    def of_intensities(self) -> Tensor:
        """The data as an instrument gives them of intensities in [0, 1], of which air has none: A u, with u = (x + 1) / 2."""
        measured = self.measurement
        return (measured.data + measured.operator.apply(torch.ones(self.shape, device=self.device))) / 2.0


def k_space(coils: int, phase: float, acceleration: float) -> Any:
    """Configuration of undersampled k-space: coils with a smooth phase, a Poisson disc in both phase encodes."""
    content = {"kind": "cartesian", "coils": coils, "phase": phase, "mask": {"kind": "poisson", "acceleration": acceleration}}
    return validate(config_class("volgen.operators", "cartesian"), content, "k-space")


def field_of(trained: TrainedRun) -> dict[str, str]:
    """What a record of figures knows of the field of view: benchmarks measure scans in the box of a run that has one."""
    return {} if trained.geometry.box is None else {"field": "box"}


def scene_of(
    trained: TrainedRun, grid: Sequence[float], device: torch.device, seed: int, samples: int
) -> Callable[[SimulatedScans, str], Scene]:  # fmt: skip
    """Makes scenes of a run: each of a head, by its label, that some scans of a store have.

    Raises:
        UserError: the run draws volumes piece by piece.
    """
    if trained.recipe.assembly.piecewise:
        raise UserError(str(trained.directory), "draws volumes piece by piece", "a run that draws whole volumes, which an instrument sees")
    preconditioner, assembly = trained.preconditioner(device), trained.assembly()

    def scene(there: SimulatedScans, label: str) -> Scene:
        head = there.read(label, trained.geometry, device)
        return Scene(trained, preconditioner, assembly, grid, device, head, seed, samples)

    return scene
