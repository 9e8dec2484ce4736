"""Volumes out of a run, in waves that fit into memory: expert by expert within a wave."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from volgen.core.given import NOTHING, Given
from volgen.core.protocols import Denoiser, Guidance, Measurement, Problem, Sampler, Shape4
from volgen.experts.bank import ExpertBank
from volgen.models.assembly import Assembly, Box
from volgen.models.corners import FittedCorners
from volgen.models.denoiser import Preconditioner
from volgen.models.haar import corner_scale, levels_between, means
from volgen.models.space import Domain
from volgen.runs.trained import TrainedRun
from volgen.sampling import descent
from volgen.sampling.climb import FULL, Climb
from volgen.sampling.decoded import Behind
from volgen.sampling.guidances.none import UNGUIDED

GIB = 2**30
BYTES_PER_VOXEL = 8  # a float32 state, and as much again for a solver that remembers
Done = Callable[[int, str], None]


def _noised(x_BCXYZ: Tensor, noise_BCXYZ: Tensor, sigma: float) -> Tensor:
    return x_BCXYZ + sigma * noise_BCXYZ


def unasked(index: int) -> Given:
    """Nothing is asked of a volume."""
    return NOTHING


@dataclass(frozen=True)
class Drawing:
    """How volumes are drawn from a run.

    Attributes:
        run: the run.
        preconditioner: the run's preconditioner, on the device.
        assembly: the run's assembly.
        solver: configuration of a sampler.
        noises: configuration of a noise.
        grid: noise levels to visit.
        device: where the denoisers compute.
        guidance: what a solver asks in place of the denoiser.
        measurement: what volumes have to agree with, on the device; None if there is nothing.
        given: what a volume of an index is asked to be (B = 1).
        sketch: what is drawn from in place of pure noise, [1, 1, X, Y, Z] of the box, on the device; it has the noise of ``grid[0]`` added.
        weak: a worse denoiser than the run's, if the guidance moves away from one; of corners, where volumes climb.
        climbs: whether volumes climb; only where the run says that they can, and nothing needs whole volumes on their way.
        level: means over cubes of 2^level voxels are handed over; 0: the volumes.
        finest: level of the corners in which a descent ends, at most ``level``; above 0 only where volumes climb, to experts of it.

    Raises:
        UserError: the run's experts were made for another solver, or for other noise levels.
    """

    run: TrainedRun
    preconditioner: Preconditioner
    assembly: Assembly
    solver: Any
    noises: Any
    grid: Sequence[float]
    device: torch.device
    guidance: Guidance = UNGUIDED
    measurement: Measurement | None = None
    given: Callable[[int], Given] = unasked
    climbs: bool = False
    level: int = 0
    finest: int = 0
    weak: Denoiser | None = None
    sketch: Tensor | None = None

    @property
    def shape(self) -> Shape4:
        """Channels and voxels of what is on its way when a descent ends, (1, X, Y, Z)."""
        x, y, z = (edge >> self.finest for edge in self.run.whole)
        return 1, x, y, z

    def handed_over(self, volume_CXYZ: Tensor) -> Tensor:
        """What a descent ended with -> means over cubes of 2^level voxels."""
        with torch.no_grad():
            volume_CXYZ = self.space.decode(volume_CXYZ[None])[0]
        return means(volume_CXYZ / corner_scale(self.finest), self.level - self.finest)

    def __post_init__(self) -> None:
        self.run.recipe.build().fits(self.sampler(), self.grid, guided=self.guidance is not UNGUIDED)

    @cached_property
    def space(self) -> Domain:
        """Where volumes are on their way."""
        return self.run.space(self.device)

    @cached_property
    def guide(self) -> Guidance:
        """What a solver asks in place of the denoiser, where that may be one of what volumes are decoded from."""
        if self.measurement is None or self.space.voxels:
            return self.guidance
        return Behind(self.guidance, self.space.decode)

    def steps(self, volumes: int) -> int:
        """How often ``done`` hears of a step while ``count`` volumes are drawn."""
        return volumes * self.assembly.pieces(self.run.whole) * len(self.grid)

    def draw(
        self, seed: int, indices: Sequence[int], take: Callable[[int, Tensor], None], done: Done, memory: float = 4 * GIB, capacity: int = 2
    ) -> None:  # fmt: skip
        """Draws volumes and hands each over: its index and [1, X, Y, Z], nominally in [-1, 1]. Volume i depends on ``seed`` and i alone.

        A run that computes in a box hands over the box: :meth:`volgen.images.geometry.Geometry.whole` makes a whole volume of it.

        Args:
            seed: seed of all of them.
            indices: which ones.
            take: gets each volume.
            done: called with the number of steps that were done since the last call, and a word on where the loop is.
            memory: bytes of host memory for volumes that are under way.
            capacity: experts in memory.
        """
        _, x, y, z = self.shape
        whole = (x, y, z)
        piece = self.shape if self.finest else (1, *self.run.piece)
        wave = max(1, int(min(memory / (BYTES_PER_VOXEL * math.prod(whole)), len(indices))))
        pieces = self.assembly.pieces(whole)
        if not indices:
            return
        with self.bank(self.grid, capacity) as bank:

            def draw(indices: Sequence[int], place: Box, given: Sequence[Given]) -> list[Tensor]:
                def there(shape: Shape4, seed: int, *key: int | str) -> Tensor:
                    if pieces == 1:
                        return self.noise(shape, seed, *key)
                    # A copy: a view would keep the noise of the whole volume for the sake of a slab.
                    return self.noise((1, *whole), seed, *key)[(slice(None), *place)].clone()

                told = [one | self.given(index) for one, index in zip(given, indices, strict=True)]
                return descent.sample(
                    bank, self.sampler(), descent.down(self.grid), seed=seed, indices=indices, shape=piece,
                    device=self.device, problem=self.problem, guidance=self.guide, climb=self.climb, noise=there, given=told, done=done,
                )  # fmt: skip

            for first in range(0, len(indices), wave):
                chosen = indices[first : first + wave]
                for index, volume in zip(chosen, self.assembly.generate(draw, whole, seed, chosen), strict=True):
                    take(index, self.handed_over(volume))

    def bank(self, grid: Sequence[float], capacity: int) -> ExpertBank:
        """The denoiser of the descents, of some noise levels."""
        return self.run.bank(self.preconditioner, self.device, grid, capacity, corners=self.climbs)

    @property
    def climb(self) -> Climb:
        """Which corner of a volume is on its way in which step."""
        return self.run.climbing(self.preconditioner, self.grid, self.finest) if self.climbs else FULL

    @property
    def problem(self) -> Problem:
        """Where samples start, and what they have to agree with."""
        untold = self._problem(self.preconditioner)

        def told(given: Given) -> Problem:
            known = self.preconditioner.told(given)
            return untold if known is self.preconditioner else self._problem(known)

        return replace(untold, told=told)

    def _problem(self, preconditioner: Preconditioner) -> Problem:
        corners = FittedCorners(preconditioner)

        def expected(y_BCXYZ: Tensor, sigma_B: Tensor) -> Tensor:
            level = levels_between(self.run.whole[-1], y_BCXYZ.shape[-1]) if self.climbs else 0
            return corners.expected(level, y_BCXYZ, sigma_B)

        prior = partial(corners.prior, self.climb.level(0) + self.finest)
        if self.sketch is not None:
            first = self.climb.level(0) + self.finest
            prior = partial(_noised, corner_scale(first) * means(self._sketched, first))
        return Problem(prior, self.measurement, expected, preconditioner.covariance, self.weak)

    @cached_property
    def _sketched(self) -> Tensor:
        assert self.sketch is not None, "there is one"
        return self.space.encode(self.sketch)

    def sampler(self) -> Sampler:
        """A new solver, as configured."""
        return self.solver.build()  # type: ignore[no-any-return]

    def noise(self, shape: Shape4, seed: int, *key: int | str) -> Tensor:
        """[C, X, Y, Z] for a key."""
        drawn: Tensor = self.noises.draw(shape, seed, *key)
        return drawn
