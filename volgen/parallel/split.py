"""A world of ranks that falls into groups which train different experts.

DeepSpeed knows one world: its checkpoints and ZeRO-3 make all ranks of it do the same thing at the same time. So a group is no subgroup
of the world's process group: that is ended, and each group makes one of its own, in which its ranks count from 0.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from volgen.core import progress
from volgen.core.errors import UserError
from volgen.parallel import engine
from volgen.parallel.launch import Launch, publish

SECONDS_BETWEEN_LOOKS = 0.2


def group_of(launch: Launch, groups: int) -> tuple[int, Launch]:
    """Number of this rank's group and its place in it; neighbouring ranks share a group, so that groups keep to as few nodes as they can.

    Raises:
        UserError: the ranks cannot be shared evenly.
    """
    if launch.world_size % groups:
        found = f"{launch.world_size} ranks cannot be {groups} equal groups"
        raise UserError("experts.groups", found, f"a divisor of {launch.world_size}, or another number of ranks")
    size = launch.world_size // groups
    number, rank = divmod(launch.rank, size)
    return number, replace(launch, rank=rank, world_size=size)


def split(launch: Launch, groups: int, patience: float = engine.PATIENCE) -> Launch:
    """Leaves the world for this rank's group; returns its place there. A collective call; no engine may be left.

    Args:
        launch: this rank in the world.
        groups: their number.
        patience: seconds that ranks of the group wait for each other in one collective at most.
    """
    number, part = group_of(launch, groups)
    engine.leave()
    publish(part)
    progress.share_terminal()
    engine.join(part, f"group{number}", launch, patience)
    return part


@contextmanager
def chief_leaves_last(launch: Launch) -> Iterator[None]:
    """A context that rank 0 leaves last: the store at which groups meet may live in it, and DeepSpeed's engines use it when they are made.

    When an error ends the context it waits for nobody.
    """
    try:
        yield
        if launch.world_size > 1:
            store = engine.meeting(launch.rank, launch.world_size)
            left = store.add("left", 1)
            while launch.rank == 0 and left < launch.world_size:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                left = store.add("left", 0)
    finally:
        publish(launch)
