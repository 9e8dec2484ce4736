"""Nobody waits for ever for a rank that is gone: each listens to the others in a thread, whatever the launcher does or does not do.

A collective of a rank that has died, hangs or is cut off may wait half an hour or for ever, and what it then raises names nobody.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Protocol, Self

import psutil
from pydantic import PositiveFloat
from torch.distributed import DistError

from volgen.core.config import MAY_CHANGE, Config
from volgen.core.errors import UserError
from volgen.core.exit_codes import BAD_INPUT, DEFECT, DONE, INTERRUPTED
from volgen.parallel import machine
from volgen.parallel._link import Link, listen
from volgen.parallel._watchers import Hub, Member, Report, Side, Spoke
from volgen.parallel.launch import Launch

SECONDS_TO_LEAVE = 10.0
"""How long a rank may take to leave by itself when another one has left with an error: it may be about to say what is wrong."""
PACKAGE = os.path.join(str(Path(__file__).parents[1]), "")  # noqa: PTH118 (with a separator at its end)
NETWORK = os.path.join("torch", "nn", "modules", "module.py")  # noqa: PTH118 (the same)
TORCH = os.path.join("torch", "distributed")  # noqa: PTH118 (a part of a path)


class WatchConfig(Config):
    """When a rank counts as gone."""

    dead_after: Annotated[PositiveFloat, MAY_CHANGE] = 60.0
    """Seconds without a sign of life of a rank (stopped, its machine or the network gone) after which the whole job ends."""
    hung_after: Annotated[PositiveFloat, MAY_CHANGE] = 3600.0
    """Seconds in which a rank gets nothing done (a step, a validation, a checkpoint, fitting) after which the whole job ends."""


class Ranks(Protocol):
    """All processes of the job."""

    rank: int
    world_size: int

    def gather(self, text: str) -> list[str]:
        """Every rank's text."""
        ...


class Alone:
    """The watch of a single process: there is nobody to lose."""

    def beat(self) -> None:
        """Does nothing: nobody waits for this process."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Does nothing: an error ends this process like any other."""


class Watch:
    """A context in which the process ends, with one message of one rank, when any rank of the job is lost or hung.

    A rank counts as lost when its connection ends without a word (it was killed: known at once) or when nothing has been heard of it
    for ``dead_after`` seconds (stopped, its machine off, the network cut); and as hung when it has got nothing done for ``hung_after``
    seconds. Then all ranks leave with :data:`volgen.core.exit_codes.RANK_LOST`, also in the middle of a collective that would never end.

    Args:
        side: hub or spoke.
        interval: seconds between two looks.
        dead_after: seconds of silence.
        speaks: whether this process tells the user if rank 0 cannot.
        neighbours: the ranks of this machine, by number.
    """

    def __init__(self, side: Side, interval: float, dead_after: float, speaks: bool, neighbours: Mapping[int, psutil.Process]) -> None:
        self._side, self._interval, self._dead_after, self._speaks = side, interval, dead_after, speaks
        self._neighbours = neighbours
        self._left, self._cut_off = threading.Event(), threading.Event()
        self._last = time.monotonic()
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def beat(self) -> None:
        """The main thread got something done."""
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if trace is not None and (isinstance(error, DistError) or (isinstance(error, RuntimeError) and TORCH in _last_file(trace))):
            # A collective failed. If that is because a rank is gone, the thread finds out, and ends this process with a better message.
            self._cut_off.set()
            self._thread.join(max(self._dead_after, SECONDS_TO_LEAVE) + 2 * self._interval)
        self._left.set()
        self._thread.join()
        self._side.leave(_code(error))

    def _run(self) -> None:
        try:
            self._listen()
        except Exception as error:
            # Silence would tell the others that this rank is dead.
            print(f"error: the watch over the ranks has failed itself ({error!r})", file=sys.stderr, flush=True)
            _end(DEFECT)

    def _listen(self) -> None:
        looked, asleep = time.monotonic(), ""
        while not self._left.is_set():
            away = time.monotonic() - looked
            if away > self._dead_after / 2:
                asleep = f"(this process was stopped or starved itself for {away:.0f} s) "
                self._side.forgive()
            looked = time.monotonic()
            verdict = self._side.look(self._report(), self._interval)
            if verdict is None or self._left.is_set():
                continue
            if verdict.lost is None and self._leaves():
                return
            if self._speaks and not verdict.told:
                print(f"error: {asleep}{verdict.text}", file=sys.stderr, flush=True)
            if verdict.lost is not None and verdict.lost in self._neighbours:
                # One that is stopped would never go by itself, and some launchers wait for it.
                with suppress(psutil.Error):
                    self._neighbours[verdict.lost].kill()
            _end(verdict.code)
            return

    def _leaves(self) -> bool:
        """Waits whether the main thread leaves by itself; it does not if all that it knows is that a collective has failed."""
        deadline = time.monotonic() + SECONDS_TO_LEAVE
        while time.monotonic() < deadline and not self._cut_off.is_set():
            if self._left.wait(self._interval):
                return True
        return False

    def _report(self) -> Report:
        age = time.monotonic() - self._last
        frame = sys._current_frames().get(self._main or 0)
        if frame is None:
            return Report(age)
        places = [place for place, _ in traceback.walk_stack(frame)]
        files = [place.f_code.co_filename for place in places]
        ours = next((index for index, file in enumerate(files) if file.startswith(PACKAGE)), 0)
        at = f"{Path(files[ours]).name} line {places[ours].f_lineno} ({places[ours].f_code.co_name})"
        return Report(age, _waits(files), at)


def watch(launch: Launch, ranks: Ranks, dead_after: float, hung_after: float) -> Watch | Alone:
    """Watches all ranks of a job, from the beginning of the ``with`` block to its end. A collective call.

    Args:
        launch: this process.
        ranks: all processes of the launch.
        dead_after: seconds.
        hung_after: seconds.

    Raises:
        UserError: rank 0 cannot be reached.
    """
    if ranks.world_size == 1:
        return Alone()
    interval = min(0.5, dead_after / 5)
    server = listen() if ranks.rank == 0 else None
    port = server.getsockname()[1] if server else 0
    here = machine.identity()
    told = {
        "rank": launch.rank, "host": launch.host, "process": os.getpid(), "port": port, "token": secrets.token_hex(16),
        "machine": here, "began": machine.began(),
    }  # fmt: skip
    known = [json.loads(text) for text in ranks.gather(json.dumps(told))]
    members = [Member(one["rank"], one["host"], one["process"]) for one in known]
    port, token = known[0]["port"], known[0]["token"]
    side: Side
    if server:
        side = Hub(server, token, members, dead_after, hung_after)
    else:
        try:
            link = Link(socket.create_connection((launch.address, port), timeout=dead_after))
        except OSError as error:
            found = f"port {port} cannot be reached from {launch.host} ({error.strerror or error})"
            raise UserError(launch.address, found, "that all nodes reach rank 0 on every port", "look at the firewall") from None
        side = Spoke(link, ranks.rank, token, members[0], dead_after)
    # Rank 0 speaks. If it is the one that is lost, nobody can be chosen together: the first other rank of each machine does.
    first = next(index for index, one in enumerate(known) if index and one["machine"] == here) if ranks.rank else 0
    others = [one for one in known if one["machine"] == here and one["rank"] != launch.rank]
    neighbours = {one["rank"]: process for one in others if (process := machine.process(one["process"], one["began"]))}
    return Watch(side, interval, dead_after, first == ranks.rank, neighbours)


def _last_file(trace: TracebackType) -> str:
    return traceback.extract_tb(trace)[-1].filename


def _end(code: int) -> None:
    """Ends the process at once: the main thread may never come back, and files are whole at every moment."""
    os._exit(code)


def _waits(files: Sequence[str]) -> bool:
    """Whether a stack, innermost file first, is of a rank that waits for others; a network's forward pass inside DeepSpeed computes."""
    innermost = next((file for file in files if _is_of_ranks(file) or file.endswith(NETWORK)), NETWORK)
    return not innermost.endswith(NETWORK)


def _is_of_ranks(file: str) -> bool:
    """Whether a source file is of those in which ranks wait for each other."""
    return TORCH in file or f"{os.sep}deepspeed{os.sep}" in file or file.endswith(f"{os.sep}parallel{os.sep}group.py")


def _code(error: BaseException | None) -> int:
    """The exit code that the command line will give."""
    if error is None:
        return DONE
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else DEFECT
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return BAD_INPUT if isinstance(error, UserError | OSError) else DEFECT
