"""How volumes flow through ranks that each keep some steps' experts: who does what in which order, and how long that takes.

The steps of a sampler are cut into chunks. Of S ranks in a row ("stages"), stage s keeps the chunks s, s + S, s + 2S, ...: one span of
noise levels with one round, several short ones with more. A volume goes down the row once for each round. With N volumes and equal
chunks all is done after N + (S - 1) / rounds turns of a rank instead of N: filling and draining the row costs that. Ranks that could
hold more experts form several rows side by side ("replicas"), which are shorter.

This is the interleaved schedule of Narayanan et al. 2021 (Megatron-LM, section 2.2), forward passes only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

MOST_ROUNDS = 8
"""More rounds win little and send more."""
MOST_UNITS = 16
"""Units per rank that are followed to compare flows: with more, filling and draining hardly count."""


@dataclass(frozen=True)
class Flow:
    """Who takes which steps.

    Attributes:
        world_size: ranks.
        stages: ranks in a row; divides ``world_size``.
        chunks: steps of each chunk, in the order in which they are taken; a multiple of ``stages``.
    """

    world_size: int
    stages: int
    chunks: tuple[range, ...]

    @property
    def rounds(self) -> int:
        """How often a volume passes a rank."""
        return len(self.chunks) // self.stages

    @property
    def replicas(self) -> int:
        """Rows side by side."""
        return self.world_size // self.stages

    def place(self, rank: int) -> tuple[int, int]:
        """Replica and stage of a rank; neighbouring ranks are neighbouring stages."""
        return divmod(rank, self.stages)

    def steps(self, stage: int) -> list[int]:
        """All steps that a stage takes."""
        return [step for chunk in self.chunks[stage :: self.stages] for step in chunk]

    def tasks(self, rank: int, units: int) -> list[tuple[int, int]]:
        """What a rank does, in order: (unit, chunk). A unit is one volume, or several that stay together; replicas share them evenly.

        Units that go round go in groups of twice as many as there are stages: the first of a group is back when half of them have
        left, and the other half are the time that messages may take. All stages keep to one order, whoever is faster: a message is
        never waited for that is sent after something else is waited for.
        """
        replica, stage = self.place(rank)
        mine = range(replica, units, self.replicas)
        return [
            (unit, number * self.stages + stage)
            for group in _groups(mine, 2 * self.stages if self.rounds > 1 else 1)
            for number in range(self.rounds)
            for unit in group
        ]


@dataclass(frozen=True)
class Times:
    """What a simulation says.

    Attributes:
        makespan: seconds from the first step to the last.
        efficiency: work over ranks times makespan.
    """

    makespan: float
    efficiency: float


def simulate(flow: Flow, costs: Sequence[float], units: int, transfer: float = 0.0) -> Times:
    """Follows every unit through a flow.

    Args:
        flow: who does what.
        costs: seconds of each step of one unit.
        units: how many go through, at least one.
        transfer: seconds from the end of a task until its volume is at the next rank; ranks compute meanwhile.
    """
    seconds = [sum(costs[step] for step in chunk) for chunk in flow.chunks]
    orders = [flow.tasks(stage, units) for stage in range(flow.stages)]  # of the first replica: no other has more units
    free = [0.0] * flow.stages
    there: dict[int, float] = {}
    for turn in range(len(orders[0])):  # one order for all stages, so each finds what the one before has done
        for stage, order in enumerate(orders):
            unit, chunk = order[turn]
            free[stage] = max(free[stage], there.get(unit, 0.0)) + seconds[chunk]
            there[unit] = free[stage] + transfer
    makespan = max(free)
    return Times(makespan, units * sum(costs) / (flow.world_size * makespan))


def cut(costs: Sequence[float], count: int) -> tuple[range, ...]:
    """Cuts steps into ``count`` chunks of nearly equal cost, each of at least one step (``count`` is at most their number)."""
    borders = [0]
    ends = list(itertools.accumulate(costs))
    for number in range(1, count):
        wanted = ends[-1] * number / count
        # The step whose end is nearest to an equal share, with at least one step for each chunk before and after.
        first, last = borders[-1] + 1, len(costs) - (count - number)
        borders.append(min(range(first, last + 1), key=lambda step: (abs(ends[step - 1] - wanted), step)))
    return tuple(range(low, high) for low, high in itertools.pairwise([*borders, len(costs)]))


def choose(
    world_size: int,
    units: int,
    costs: Sequence[float],
    owners: Sequence[int],
    capacity: int,
    transfer: float = 0.0,
    stages: int | None = None,
) -> Flow:
    """The flow that uses the ranks best of those in which no rank keeps more experts than it can hold.

    Rows of one rank each lose nothing but what does not divide, so they win wherever a rank can hold all experts. Where even a row of
    all ranks cannot hold them, every rank streams all experts from disk for its own volumes.

    Args:
        world_size: ranks.
        units: how many go through, at least one.
        costs: cost of each step, in any unit that ``transfer`` has too.
        owners: expert of each step.
        capacity: experts that a rank can hold.
        transfer: cost of handing a volume from one rank to the next.
        stages: ranks in a row, if that is not to be chosen; a divisor of ``world_size``, at most as many as there are steps.
    """
    alone = Flow(world_size, 1, (range(len(costs)),))
    lengths = [length for length in range(1, world_size + 1) if world_size % length == 0 and length <= len(costs)]
    units = min(units, MOST_UNITS * world_size)
    best, highest = alone, -1.0
    for length in [stages] if stages else lengths:
        for rounds in range(1, 2 if length == 1 else min(MOST_ROUNDS, len(costs) // length) + 1):
            flow = Flow(world_size, length, cut(costs, length * rounds))
            if not stages and max(len({owners[step] for step in flow.steps(stage)}) for stage in range(length)) > capacity:
                continue
            efficiency = simulate(flow, costs, units, transfer).efficiency
            if efficiency > highest + 0.005:  # what is shorter and sends less wins a draw
                best, highest = flow, efficiency
    return best


def _groups(units: Sequence[int], size: int) -> list[Sequence[int]]:
    """Groups of ``size`` units each; the last one takes what is left over, or is smaller if there are too few."""
    count = max(1, len(units) // size)
    return [units[number * size : (number + 1) * size if number < count - 1 else len(units)] for number in range(count)]
