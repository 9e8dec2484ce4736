"""How a rank draws its volumes: by itself, expert by expert, or its part of each as they flow through a row of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from volgen.core.progress import progress, say
from volgen.core.protocols import Guidance
from volgen.parallel import pipeline
from volgen.parallel.flow import Flow
from volgen.parallel.pages import kept_pages
from volgen.runs.draw import Done, Drawing
from volgen.runs.ranks import Crew, Volumes
from volgen.sampling.descent import Descent, down


@dataclass(frozen=True)
class SampleWork:
    """What both ways have in common.

    Attributes:
        seed: seed of all volumes.
        keep: takes each volume that this rank finishes, and its index.
        drawing: how they are drawn.
        ranks: this rank and the others.
    """

    seed: int
    keep: Callable[[int, Tensor], None]
    drawing: Drawing
    ranks: Crew

    def share(self, missing: Sequence[int], batch_size: int, flow: Flow, memory: float, capacity: int = 2) -> None:
        """Draws this rank's part of some volumes, and waits for the other ranks. A collective call.

        Args:
            missing: indices of the volumes, the same on all ranks.
            batch_size: volumes that the ranks of a row hand on together.
            flow: who takes which steps.
            memory: bytes for volumes under way, where each rank draws whole volumes.
            capacity: experts in memory, there.
        """
        units = [missing[first : first + batch_size] for first in range(0, len(missing), batch_size)]
        group = self.ranks.group
        with kept_pages():
            if flow.stages > 1 and missing:
                self.flow(units, flow)
            else:
                self.stay([index for unit in units[group.rank :: group.world_size] for index in unit], memory, capacity)
        self.ranks.meet()

    def stay(self, indices: Sequence[int], memory: float, capacity: int) -> None:
        """Draws whole volumes, as many at a time as fit into ``memory`` bytes, with ``capacity`` experts in memory."""
        with self._ticking(self.drawing.steps(len(indices))) as done:
            self.drawing.draw(self.seed, indices, self._export, done, memory, capacity)

    def flow(self, units: Sequence[Sequence[int]], flow: Flow) -> None:
        """Takes this rank's steps of all volumes of its row, with the experts of these steps in memory."""
        assert self.ranks.mail is not None, "a single process has no row"
        rank, grid, drawing = self.ranks.group.rank, self.drawing.grid, self.drawing
        mine = [grid[step] for step in flow.steps(flow.place(rank)[1])]
        tasks = flow.tasks(rank, len(units))
        with (
            drawing.bank(mine, capacity=max(2, len(mine))) as bank,
            self._ticking(sum(len(units[unit]) * len(flow.chunks[chunk]) for unit, chunk in tasks)) as done,
        ):
            sampler, shape, device = drawing.sampler(), drawing.shape, self.ranks.device
            seed, path = self.seed, down(grid)
            descent = Descent(bank, sampler, path, seed, shape, device, drawing.problem, drawing.noise, drawing.guide, drawing.climb)
            work = Volumes(descent, units, self._take, done, drawing.given)
            pipeline.run(flow, rank, len(units), work, self.ranks.mail, self.ranks.pulse)

    @contextmanager
    def _ticking(self, total: int) -> Iterator[Done]:
        """Progress for the user, and signs of life for the other ranks."""
        with progress("sampling", total) as ticker:

            def done(count: int, note: str) -> None:
                ticker.advance(count, note)
                self.ranks.pulse.beat()

            yield done

    def _take(self, index: int, volume_CXYZ: Tensor) -> None:
        self._export(index, self.drawing.handed_over(volume_CXYZ))

    def _export(self, index: int, volume_CXYZ: Tensor) -> None:
        self.keep(index, volume_CXYZ)
        self.ranks.pulse.beat()


def tell_noted(kind: str, guidance: Guidance) -> None:
    """Says what a guidance has noted of its steps."""
    for name, value in guidance.noted().items():
        say(f"{kind}: {name} {value:.3g} (of the steps of this process)")
