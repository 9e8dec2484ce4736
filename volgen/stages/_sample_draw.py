"""How a rank draws its volumes: by itself, expert by expert, or its part of each as they flow through a row of ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from volgen.core.progress import progress
from volgen.core.protocols import Sampler, Shape3
from volgen.models.assembly import Assembly, Place
from volgen.models.denoiser import Preconditioner
from volgen.parallel import pipeline
from volgen.parallel.flow import Flow
from volgen.samplers import _driver
from volgen.samplers._packed import Packing
from volgen.stages._sample_job import Job
from volgen.stages._sample_ranks import Crew, Done, Volumes

BYTES_PER_VOXEL = 8  # a float32 state, and as much again for a solver that remembers


@dataclass(frozen=True)
class Drawing:
    """What both ways have in common.

    Attributes:
        job: what is drawn, and where it goes.
        preconditioner: of the run, on the device of this rank.
        assembly: of the run.
        ranks: this rank and the others.
    """

    job: Job
    preconditioner: Preconditioner
    assembly: Assembly
    ranks: Crew

    def stay(self, indices: Sequence[int], memory: float, capacity: int) -> None:
        """Draws whole volumes, as many at a time as fit into ``memory`` bytes, with ``capacity`` experts in memory."""
        whole, grid = self.job.run.geometry.shape, self.job.grid
        wave = max(1, int(min(memory / (BYTES_PER_VOXEL * math.prod(whole)), len(indices))))
        pieces = self.assembly.pieces(whole)
        if not indices:
            return
        with (
            self.job.run.bank(self.preconditioner, self.ranks.device, grid, capacity) as bank,
            self._ticking(len(indices) * pieces * len(grid)) as done,
        ):

            def draw(indices: Sequence[int], place: Place, known: Sequence[Tensor]) -> list[Tensor]:
                def there(shape: Shape3, seed: int, *key: int | str) -> Tensor:
                    drawn = self._noise(whole, seed, *key)
                    # A copy: a view would keep the noise of the whole volume for the sake of a slab.
                    return drawn if pieces == 1 else drawn[(slice(None), *place)].clone()

                return _driver.sample(
                    bank, self._solver(), grid, seed=self.job.seed, indices=indices, shape=self.job.run.recipe.piece,
                    device=self.ranks.device, start=self.preconditioner.start, noise=there, known=known, done=done,
                )  # fmt: skip

            for first in range(0, len(indices), wave):
                chosen = indices[first : first + wave]
                for index, volume in zip(chosen, self.assembly.generate(draw, whole, self.job.seed, chosen), strict=True):
                    self._export(index, volume)

    def flow(self, units: Sequence[Sequence[int]], flow: Flow) -> None:
        """Takes this rank's steps of all volumes of its row, with the experts of these steps in memory."""
        assert self.ranks.mail is not None, "a single process has no row"
        rank, grid = self.ranks.group.rank, self.job.grid
        mine = [grid[step] for step in flow.steps(flow.place(rank)[1])]
        tasks = flow.tasks(rank, len(units))
        with (
            self.job.run.bank(self.preconditioner, self.ranks.device, mine, capacity=max(2, len(mine))) as bank,
            self._ticking(sum(len(units[unit]) * len(flow.chunks[chunk]) for unit, chunk in tasks)) as done,
        ):
            sampler, shape, device = self._solver(), self.job.run.geometry.shape, self.ranks.device
            descent = _driver.Descent(bank, sampler, grid, self.job.seed, shape, device, self.preconditioner.start, self._noise)
            work = Volumes(descent, Packing(sampler, shape), units, self._export, done)
            pipeline.run(flow, rank, len(units), work, self.ranks.mail, self.ranks.pulse)

    @contextmanager
    def _ticking(self, total: int) -> Iterator[Done]:
        """Progress for the user, and signs of life for the other ranks."""
        with progress("sampling", total) as ticker:

            def done(count: int, note: str) -> None:
                ticker.advance(count, note)
                self.ranks.pulse.beat()

            yield done

    def _export(self, index: int, volume_CXYZ: Tensor) -> None:
        self.job.export(index, volume_CXYZ)
        self.ranks.pulse.beat()

    def _solver(self) -> Sampler:
        return self.job.solver.build()  # type: ignore[attr-defined, no-any-return]

    def _noise(self, shape: Shape3, seed: int, *key: int | str) -> Tensor:
        drawn: Tensor = self.job.noise.draw(shape, seed, *key)  # type: ignore[attr-defined]
        return drawn
