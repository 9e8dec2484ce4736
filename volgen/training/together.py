"""Work on files that may fail on one rank: all ranks learn of it, and one clear error is raised instead of a wait for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from volgen.core.errors import UserError
from volgen.core.exit_codes import BAD_INPUT
from volgen.training.protocols import Ranks

T = TypeVar("T")


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
