"""Runs a flow: receives what the rank before has done, goes on with it, and hands it on.

Messages go through gloo between host memories, where volumes wait anyway, whatever the ranks compute on: 128 MiB for a volume of 256^3
and what its solver remembers, against many evaluations of a network. NCCL's sends, which wait in a stream for their receiver, could
lock each other out where volumes go round.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, distributed

from volgen.core.protocols import Pulse
from volgen.parallel.flow import Flow

State = TypeVar("State")
FOR_EVER = timedelta(days=365)
"""Whether a rank is lost is found out by the watch (:mod:`volgen.parallel.watch`), not by a clock: a row takes long to fill."""
AHEAD = 2
"""Messages that a rank lets arrive while it computes."""
BEHIND = 3
"""Messages that may wait to be taken by the next rank: volumes must not pile up before a slow one.

Ranks of a row can only lock each other if every one of S has sent BEHIND + 1 units of one group that the next has not taken (all take them
in the order in which they are sent, so nobody waits for what is not sent yet). A group has at most 4S - 1 units: 3 are enough.
"""


@dataclass(frozen=True)
class Message:
    """Bytes that are under way.

    Attributes:
        buffer: uint8, one axis; gloo reads or writes it until the request is over.
        request: what to wait for.
    """

    buffer: Tensor
    request: Any


class Work(Protocol[State]):
    """What is done with units on their way. A unit is one volume or several."""

    def begin(self, unit: int) -> State:
        """A unit before its first step."""
        ...

    def advance(self, unit: int, state: State, steps: range) -> State:
        """A unit after some more steps."""
        ...

    def finish(self, unit: int, state: State) -> None:
        """A unit after its last step; its rank keeps the result."""
        ...

    def size(self, unit: int, step: int) -> int:
        """Bytes of :meth:`pack`."""
        ...

    def pack(self, unit: int, state: State, step: int) -> Tensor:
        """A unit before a step that is not its first: uint8 on the CPU, one axis."""
        ...

    def unpack(self, unit: int, packed: Tensor, step: int) -> State:
        """Inverse of :meth:`pack`."""
        ...


class Mail:
    """Messages between the ranks of a job that may take as long as they want: the watch, not a clock, ends what never comes.

    Args:
        pulse: hears that this rank waits for others, which is no hanging.
    """

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._group: Any = distributed.new_group(backend="gloo", timeout=FOR_EVER)  # a collective call

    def expect(self, source: int, tag: int, size: int) -> Message:
        """A message that may come in from now on."""
        buffer = torch.empty(size, dtype=torch.uint8)
        return Message(buffer, distributed.irecv(buffer, source, group=self._group, tag=tag))

    def send(self, target: int, tag: int, packed: Tensor) -> Message:
        """A message that goes out; it must be kept until it has been taken."""
        return Message(packed, distributed.isend(packed, target, group=self._group, tag=tag))

    def wait(self, message: Message) -> Tensor:
        """Until a message is here, or has been taken."""
        with self._waiting():
            message.request.wait()
        return message.buffer

    def meet(self) -> None:
        """Waits for all ranks."""
        with self._waiting():
            distributed.barrier(group=self._group)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        over = threading.Event()

        def beat() -> None:
            while not over.wait(1.0):
                self._pulse.beat()

        thread = threading.Thread(target=beat, name="waiting", daemon=True)
        thread.start()
        try:
            yield
        except RuntimeError as error:
            # gloo's own: it is raised outside of torch's Python, where the watch would not know that a collective has failed.
            raise distributed.DistError(str(error)) from error
        finally:
            over.set()
            thread.join()


def run(flow: Flow, rank: int, units: int, work: Work[State], mail: Mail, pulse: Pulse) -> None:
    """Does this rank's part of a flow.

    Args:
        flow: who does what; the same on every rank.
        rank: this one.
        units: how many go through.
        work: what is done with each.
        mail: connection to the neighbours.
        pulse: hears of every task.
    """
    replica, stage = flow.place(rank)
    before, behind = (replica * flow.stages + (stage + step) % flow.stages for step in (-1, 1))
    tasks = flow.tasks(rank, units)
    last = len(flow.chunks) - 1
    awaited = deque(task for task in tasks if task[1] > 0)
    arriving: deque[Message] = deque()
    sent: dict[int, Message] = {}

    def tag(unit: int, chunk: int) -> int:
        return unit * len(flow.chunks) + chunk

    for unit, chunk in tasks:
        while awaited and len(arriving) < AHEAD:
            coming, next_chunk = awaited.popleft()
            size = work.size(coming, flow.chunks[next_chunk].start)
            arriving.append(mail.expect(before, tag(coming, next_chunk - 1), size))
        if chunk == 0:
            state = work.begin(unit)
        else:
            state = work.unpack(unit, mail.wait(arriving.popleft()), flow.chunks[chunk].start)
            if unit in sent:  # it is back, so what was sent last time has been taken
                mail.wait(sent.pop(unit))
        state = work.advance(unit, state, flow.chunks[chunk])
        pulse.beat()
        if chunk == last:
            work.finish(unit, state)
            pulse.beat()
            continue
        sent[unit] = mail.send(behind, tag(unit, chunk), work.pack(unit, state, flow.chunks[chunk].stop))
        if len(sent) > BEHIND:
            mail.wait(sent.pop(next(iter(sent))))
    for message in sent.values():
        mail.wait(message)
