"""Drawing on several ranks: each draws volumes of its own, or volumes flow through rows of ranks that share the experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.given import Given
from volgen.core.protocols import Pulse
from volgen.core.span import owner
from volgen.experts.ensemble import Ensemble
from volgen.parallel import launch as launches
from volgen.parallel import pipeline
from volgen.parallel.device import device_of_rank, usable_device
from volgen.parallel.flow import Flow, choose
from volgen.parallel.group import Group
from volgen.parallel.launch import Launch
from volgen.parallel.watch import WatchConfig, watch
from volgen.runs.draw import Done, unasked
from volgen.sampling.descent import Descent, State
from volgen.sampling.packing import Packing
from volgen.training.protocols import NO_PULSE


@dataclass(frozen=True)
class Crew:
    """The ranks that sample together.

    Attributes:
        group: all of them.
        device: where this one computes.
        pulse: hears that this one is alive.
        mail: None for a single process.
    """

    group: Group
    device: torch.device
    pulse: Pulse
    mail: pipeline.Mail | None

    def meet(self) -> None:
        """Waits until all ranks are here."""
        if self.mail:
            self.mail.meet()


@contextmanager
def crew(launch: Launch, config: WatchConfig, device: str | None) -> Iterator[Crew]:
    """Brings the ranks together and watches over them until the end. A collective call.

    Raises:
        UserError: ranks are missing, or there is no such device.
    """
    if launch.world_size == 1:
        where = usable_device(device)
        yield Crew(Group(launch, where), where, NO_PULSE, None)
        return
    world = Group(launch, launches.take_part(launch))
    chosen = device_of_rank(device, world.device)
    with watch(launch, world, config.dead_after, config.hung_after) as pulse:
        yield Crew(world, chosen, pulse, pipeline.Mail(pulse))


def flow_of(
    world_size: int, units: int, grid: Sequence[float], costs: Sequence[float], ensemble: Ensemble, capacity: int, stages: int | None
) -> Flow:
    """Who takes which steps.

    Args:
        world_size: ranks.
        units: volumes, or as many times several.
        grid: noise levels.
        costs: cost of each step.
        ensemble: the experts.
        capacity: experts that a rank can hold.
        stages: ranks in a row; chosen if None.

    Raises:
        UserError: there can be no such rows.
    """
    if stages is not None and (stages < 1 or world_size % stages or stages > len(grid)):
        expected = f"a divisor of {world_size}, the number of ranks, and at most {len(grid)}, the number of steps"
        raise UserError("--stages", str(stages), expected)
    owners = [owner(ensemble.spans, sigma) for sigma in grid]
    return choose(world_size, max(units, 1), costs, owners, capacity, stages=stages)


@dataclass(frozen=True)
class Volumes:
    """Volumes on their way through a row: :class:`volgen.parallel.pipeline.Work`.

    Attributes:
        descent: what decides a volume.
        units: indices of the volumes that stay together.
        keep: takes a finished volume [1, X, Y, Z].
        done: is told how many steps are done, and where.
        given: what a volume of an index is asked to be (B = 1).
    """

    descent: Descent
    units: Sequence[Sequence[int]]
    keep: Callable[[int, Tensor], None]
    done: Done
    given: Callable[[int], Given] = unasked

    def begin(self, unit: int) -> list[State]:
        """The noise that a volume begins as."""
        return [self.descent.begin(index, self.given(index)) for index in self.units[unit]]

    def advance(self, unit: int, state: list[State], steps: range) -> list[State]:
        """Some steps down, expert by expert."""
        for number in steps:
            of_each = zip(state, self.units[unit], strict=True)
            state = [self.descent.advance(one, number, index, self.given(index)) for one, index in of_each]
            self.done(len(state), f"sigma {self.descent.path[number][0]:.3g}")
        return state

    def finish(self, unit: int, state: list[State]) -> None:
        """Writes the files of a volume."""
        for one, index in zip(state, self.units[unit], strict=True):
            self.keep(index, one.x_BCXYZ[0])

    def size(self, unit: int, step: int) -> int:
        """Bytes of volumes under way."""
        return len(self.units[unit]) * self._packing(step).size

    def pack(self, unit: int, state: list[State], step: int) -> Tensor:
        """One after another."""
        return torch.cat([self._packing(step).pack(one) for one in state])

    def unpack(self, unit: int, packed: Tensor, step: int) -> list[State]:
        """Inverse of :meth:`pack`."""
        packing = self._packing(step)
        return [packing.unpack(part) for part in packed.split(packing.size)]

    def _packing(self, step: int) -> Packing:
        """How a volume is sent before a step."""
        return Packing(self.descent.sampler, self.descent.shape_before(step))
