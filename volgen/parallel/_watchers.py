"""The two sides of the watch: rank 0 listens to all others, and every other one to rank 0. What they hear leads to a verdict."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from volgen.core.exit_codes import DONE, INTERRUPTED, RANK_LOST, SAVED
from volgen.parallel._link import Link, ready

AGREED = (DONE, SAVED, INTERRUPTED)
"""Exit codes with which ranks leave together."""
SECONDS_TO_READ = 1.0
"""How long last words may take to arrive."""
STRANGERS = 64
"""Connections that may wait to say who they are, besides those of all ranks; older ones are closed."""
GO_ON = "All ranks stop; the same command goes on from the last checkpoint"


@dataclass(frozen=True)
class Member:
    """One process of the job.

    Attributes:
        rank: its number.
        host: name of its machine.
        process: its id there.
    """

    rank: int
    host: str
    process: int

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} (process {self.process})"


@dataclass(frozen=True)
class Report:
    """What a rank says of itself.

    Attributes:
        age: seconds since it last got something done.
        waits: whether it waits for other ranks.
        at: the line of code where it is.
    """

    age: float = 0.0
    waits: bool = False
    at: str = ""


@dataclass(frozen=True)
class Verdict:
    """The end of the job.

    Attributes:
        text: what to tell the user.
        code: exit code of all ranks.
        lost: rank that was lost, None if it failed by itself and has said why.
        told: another rank has told the user.
    """

    text: str
    code: int = RANK_LOST
    lost: int | None = None
    told: bool = False


class Side(Protocol):
    """One side of the watch."""

    def look(self, report: Report, seconds: float) -> Verdict | None:
        """Listens and talks for some seconds; says if the job is over."""
        ...

    def forgive(self) -> None:
        """Starts to count silence anew: this process was stopped or starved itself, and did not listen."""
        ...

    def leave(self, code: int) -> None:
        """Tells the others that this rank goes by itself."""
        ...


@dataclass
class _Heard:
    """What one side knows of another."""

    link: Link
    when: float = field(default_factory=time.monotonic)
    report: Report = Report()
    left: int | None = None

    def take(self, message: dict[str, Any]) -> None:
        self.when = time.monotonic()
        if "left" in message:
            self.left = int(message["left"])
        elif "age" in message:
            self.report = Report(**message)

    def silent(self, dead_after: float) -> bool:
        return time.monotonic() - self.when > dead_after


class Hub:
    """Rank 0: listens to all ranks.

    Args:
        server: a listening socket.
        token: what a rank says first; strangers do not know it.
        members: all processes; the first is this one.
        dead_after: seconds of silence after which a rank counts as lost.
        hung_after: seconds without progress after which one counts as hung.
    """

    def __init__(self, server: socket.socket, token: str, members: Sequence[Member], dead_after: float, hung_after: float) -> None:
        self._server, self._token, self._members = server, token, members
        self._dead_after, self._hung_after = dead_after, hung_after
        self._strangers: list[Link] = []
        self._heard: dict[int, _Heard] = {}
        self._start = time.monotonic()

    def look(self, report: Report, seconds: float) -> Verdict | None:
        """Listens for some seconds, answers every rank, and judges; a verdict is told to all."""
        present = {index: heard for index, heard in self._heard.items() if heard.left is None}
        self._listen([self._server, *self._strangers, *(heard.link for heard in present.values())], seconds)
        for heard in present.values():
            heard.link.send({"alive": True})
        verdict = self._judge(report)
        if verdict:
            self._last_words({"verdict": {**asdict(verdict), "told": True}})
        return verdict

    def forgive(self) -> None:
        """Starts to count silence anew."""
        self._start = time.monotonic()
        for heard in self._heard.values():
            heard.when = self._start

    def leave(self, code: int) -> None:
        """Tells all that rank 0 goes by itself."""
        self._last_words({"left": code})
        self._server.close()

    def _last_words(self, message: dict[str, Any]) -> None:
        links = [heard.link for heard in self._heard.values() if not heard.link.closed]
        for link in links:
            link.send(message)
            link.finish()
        deadline = time.monotonic() + SECONDS_TO_READ
        for link in links:
            link.drained(deadline)

    def _listen(self, sources: list[Any], seconds: float) -> None:
        if any(source is self._server for source in ready(sources, seconds)):
            with suppress(OSError):  # it may have gone again
                self._strangers.append(Link(self._server.accept()[0]))
        for stranger in self._strangers[: -STRANGERS - len(self._members)]:
            stranger.close()
        for stranger in list(self._strangers):
            known: _Heard | None = None
            for message in stranger.receive():
                index = message.get("index")
                if known is not None:  # it has said who it is and, in the same breath, more
                    known.take(message)
                elif message.get("token") == self._token and isinstance(index, int) and 0 < index < len(self._members):
                    self._heard[index] = known = _Heard(stranger)
                    self._strangers.remove(stranger)
            if stranger.closed and stranger in self._strangers:
                self._strangers.remove(stranger)
        for heard in self._heard.values():
            for message in [] if heard.left is not None else heard.link.receive():
                heard.take(message)
            if heard.left is not None:
                heard.link.close()

    def _judge(self, report: Report) -> Verdict | None:
        for index, member in enumerate(self._members[1:], 1):
            heard = self._heard.get(index)
            if heard is None:
                if time.monotonic() - self._start > self._dead_after:
                    return silent(member, self._dead_after)
            elif heard.left is not None:
                if heard.left not in AGREED:
                    return failed(member, heard.left)
            elif heard.link.closed:
                return dead(member)
            elif heard.silent(self._dead_after):
                return silent(member, self._dead_after)
        reports = {0: report, **{index: heard.report for index, heard in self._heard.items() if heard.left is None}}
        if max(found.age for found in reports.values()) <= self._hung_after:
            return None
        stuck = {index: found for index, found in reports.items() if found.age > self._hung_after / 2 and not found.waits}
        named = [f"{self._members[index]} at {found.at}" for index, found in (stuck or reports).items()]
        found = f"no step for {self._hung_after:g} s"
        text = f"{'; '.join(named)}: {found}" if stuck else f"{found}, and no rank can be blamed: {'; '.join(named)}"
        return Verdict(f"{text}. {GO_ON}.", lost=min(stuck, default=None))


class Spoke:
    """Any other rank: listens to rank 0.

    Args:
        link: connection to rank 0.
        index: number of this process among those watched.
        token: the word by which the hub knows its own.
        hub: the process of rank 0.
        dead_after: seconds of silence after which it counts as lost.
    """

    def __init__(self, link: Link, index: int, token: str, hub: Member, dead_after: float) -> None:
        self._heard, self._hub, self._dead_after = _Heard(link), hub, dead_after
        link.send({"index": index, "token": token})

    def look(self, report: Report, seconds: float) -> Verdict | None:
        """Listens for some seconds, reports, and says what rank 0 has said, or that it is lost."""
        heard = self._heard
        if heard.left is not None:
            time.sleep(seconds)
            return None if heard.left in AGREED else failed(self._hub, heard.left, told=True)
        ready([heard.link], seconds)
        messages = heard.link.receive()
        for message in messages:
            heard.take(message)
            if "verdict" in message:
                return Verdict(**message["verdict"])
        if any("left" in message for message in messages):
            heard.link.close()
            return None
        heard.link.send(asdict(report))
        if heard.link.closed:
            return dead(self._hub)
        return silent(self._hub, self._dead_after) if heard.silent(self._dead_after) else None

    def forgive(self) -> None:
        """Starts to count silence anew."""
        self._heard.when = time.monotonic()

    def leave(self, code: int) -> None:
        """Tells rank 0 that this rank goes by itself."""
        if not self._heard.link.closed:
            self._heard.link.send({"left": code})
            self._heard.link.finish()
            self._heard.link.drained(time.monotonic() + SECONDS_TO_READ)


def dead(member: Member) -> Verdict:
    """Its connection has ended without a word."""
    return Verdict(f"{member} has died. {GO_ON}.", lost=member.rank)


def silent(member: Member, seconds: float) -> Verdict:
    """Nothing has come from it."""
    why = "it is stopped, or its machine or the network to it is gone"
    return Verdict(f"{member} has not been heard of for {seconds:g} s: {why}. {GO_ON}.", lost=member.rank)


def failed(member: Member, code: int, told: bool = False) -> Verdict:
    """It has left with an error of its own."""
    return Verdict(f"{member} has stopped with exit code {code}; its own message says why.", code, told=told)
