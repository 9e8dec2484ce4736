"""What ranks do together: work that may fail on one of them, answers that one of them has for all, and waiting.

All ranks learn of a failure, and one clear error is raised instead of a wait for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from volgen.core.errors import UserError
from volgen.core.exit_codes import BAD_INPUT
from volgen.core.progress import say
from volgen.core.protocols import Pulse
from volgen.training.interrupt import Interrupt, Interrupted, first, heard
from volgen.training.protocols import Ranks

T = TypeVar("T")
SECONDS_BETWEEN_LOOKS = 1.0
WAIT = "wait"
"""What a look sees while others are at work."""


def together(ranks: Ranks, where: Path, do: str, work: Callable[[], T]) -> T:
    """Every rank does its own part of some work, in which it must not talk to the others. A collective call.

    Args:
        ranks: the processes.
        where: what is worked on, for the message.
        do: what the user can do if it fails.
        work: this rank's part.

    Raises:
        UserError: the part of some rank failed; raised on the first one that failed.
        SystemExit: with 2, on the other ranks.
    """
    failure: UserError | None = None
    result: T | None = None
    try:
        result = work()
    except UserError as error:
        failure = error
    except OSError as error:
        place = str(error.filename or where)
        failure = UserError(place, f"{error.strerror or error} (rank {ranks.rank})", "room and permission to write", do)
    failed = [rank for rank, text in enumerate(ranks.gather("well" if failure is None else "failed")) if text == "failed"]
    if not failed:
        return result  # type: ignore[return-value]  # work has returned
    if failure is not None and failed[0] == ranks.rank:
        raise failure
    raise SystemExit(BAD_INPUT)


def on_chief(group: Ranks, work: Callable[[], object]) -> None:
    """Rank 0 does some work while the others wait; if it fails, they end quietly instead of waiting for ever."""

    def silent() -> str:
        work()
        return ""

    from_chief(group, silent)


def from_chief(group: Ranks, work: Callable[[], str]) -> str:
    """What rank 0's work returns, on every rank; if it fails there, the other ranks end quietly instead of waiting for ever."""
    failure: BaseException | None = None
    answer = ""
    if group.rank == 0:
        try:
            answer = f"={work()}"
        except BaseException as error:
            failure = error
    answer = group.gather(answer or "!")[0]
    if failure is not None:
        raise failure
    if answer == "!":
        raise SystemExit(BAD_INPUT)
    return answer[1:]


class Pulses:
    """Everybody who wants to hear of every step."""

    def __init__(self, *listeners: Pulse) -> None:
        self._listeners = listeners

    def beat(self) -> None:
        """A step, or something else that takes time, has ended."""
        for listener in self._listeners:
            listener.beat()


def when_ready(group: Ranks, look: Callable[[], str], interrupt: Interrupt, pulse: Pulse) -> str:
    """Looks, on rank 0, until there is something else to see than :data:`WAIT`, and returns it on every rank.

    Raises:
        SystemExit: a signal arrived, and there is nothing to save.
    """
    while (seen := from_chief(group, look)) == WAIT:
        if stop := told_to_stop(group, interrupt):
            say("Stopped while waiting. The same command continues this run.")
            raise SystemExit(Interrupted(stop).exit_code)
        pulse.beat()  # others are at work
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return seen


def told_to_stop(group: Ranks, interrupt: Interrupt) -> int:
    """The signal that ranks have received, 0 for none; of several the first of ``SIGNALS``. A collective call."""
    return first(group.sum(heard(interrupt)))
