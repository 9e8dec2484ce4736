"""A world of ranks that falls into groups which train different experts.

DeepSpeed knows one world: its checkpoints and ZeRO-3 make all ranks of it do the same thing at the same time. So a group is no subgroup
of the world's process group: that is ended, and each group makes one of its own, in which its ranks count from 0.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

from volgen.core import progress
from volgen.core.errors import UserError
from volgen.core.exit_codes import INTERRUPTED, SAVED
from volgen.parallel import engine
from volgen.parallel.launch import Launch, publish

SECONDS_BETWEEN_LOOKS = 0.2
STOP = "stop"


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


class Partners:
    """The groups of a launch, as one of them sees the others: if one is told to stop, all do, and they leave together.

    Otherwise the first to leave would end the job: a launcher kills the ranks that are left, in the middle of their checkpoints.

    Args:
        launch: this rank in the world.
        tell: takes in the signal that another group has received.
    """

    def __init__(self, launch: Launch, tell: Callable[[int], None]) -> None:
        self._launch, self._tell = launch, tell
        self._store = engine.meeting(launch.rank, launch.world_size)
        self._looked = 0.0

    def beat(self) -> None:
        """Looks, now and then, whether another group stops."""
        if time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            if self._store.check([STOP]):
                self._tell(int(self._store.get(STOP)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        stopped = isinstance(error, SystemExit) and error.code in (SAVED, INTERRUPTED)
        if stopped and isinstance(error, SystemExit):
            self._store.set(STOP, str(int(signal.SIGINT if error.code == INTERRUPTED else signal.SIGTERM)))
        if error is None or stopped:  # after an error nobody waits
            self._meet("done")
            # The store may live in rank 0, so that goes last.
            self._meet("gone", only_rank_0=True)
        publish(self._launch)

    def _meet(self, name: str, only_rank_0: bool = False) -> None:
        there = self._store.add(name, 1)
        while there < self._launch.world_size and (self._launch.rank == 0 or not only_rank_0):
            time.sleep(SECONDS_BETWEEN_LOOKS)
            there = self._store.add(name, 0)
