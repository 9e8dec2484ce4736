"""Volumes flow to the end in whatever order ranks are held up, and none keeps more messages than it may."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from volgen.parallel import pipeline
from volgen.parallel.flow import Flow, cut
from volgen.training.protocols import NO_PULSE


class Post:
    """Between threads; as with gloo in the worst case, nothing leaves the sender before there is somebody to receive it."""

    def __init__(self) -> None:
        self.expected: dict[Any, threading.Event] = defaultdict(threading.Event)
        self.sent: dict[Any, threading.Event] = defaultdict(threading.Event)
        self.content: dict[Any, Tensor] = {}
        self.sizes: dict[Any, int] = {}


@dataclass
class Mail:
    """Counts the messages that its rank has sent and not waited for."""

    post: Post
    rank: int
    held: int = 0
    most: int = 0
    sent: set[Any] = field(default_factory=set)

    def expect(self, source: int, tag: int, size: int) -> Any:
        key = (source, self.rank, tag)
        self.post.sizes[key] = size
        self.post.expected[key].set()
        return key

    def send(self, target: int, tag: int, packed: Tensor) -> Any:
        key = (self.rank, target, tag)
        self.post.content[key] = packed
        self.post.sent[key].set()
        self.sent.add(key)
        self.held += 1
        self.most = max(self.most, self.held)
        return key

    def wait(self, key: Any) -> Tensor:
        going = key in self.sent
        assert (self.post.expected if going else self.post.sent)[key].wait(20), "locked"
        self.held -= going
        assert self.post.sizes[key] == self.post.content[key].numel(), "what is sent has the size that is expected"
        return self.post.content[key]


class Counting:
    """A unit is the number of steps that it has taken, in order."""

    def __init__(self, rank: int) -> None:
        self.delays, self.done = random.Random(rank), {}  # type: ignore[var-annotated]

    def begin(self, unit: int) -> int:
        return 0

    def advance(self, unit: int, state: int, steps: range) -> int:
        assert state == steps.start
        time.sleep(self.delays.choice((0.0, 0.0, 0.002)))
        return steps.stop

    def finish(self, unit: int, state: int) -> None:
        self.done[unit] = state

    def size(self, unit: int, step: int) -> int:
        return 8 * step

    def pack(self, unit: int, state: int, step: int) -> Tensor:
        assert state == step
        return torch.full((step,), state).view(torch.uint8)

    def unpack(self, unit: int, packed: Tensor, step: int) -> int:
        assert packed.shape == (self.size(unit, step),), "a message has the size that was expected before that step"
        return int(packed.view(torch.int64)[0])


@pytest.mark.parametrize(("stages", "rounds"), [(2, 1), (2, 3), (3, 2), (5, 4), (8, 2)])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_all_arrive_and_few_messages_are_kept(stages: int, rounds: int, extra: int) -> None:
    # The last group is the largest with one unit less than two full groups.
    flow, units = Flow(stages, stages, cut([1.0] * stages * rounds, stages * rounds)), 4 * stages + extra
    post, works = Post(), [Counting(rank) for rank in range(stages)]
    mails = [Mail(post, rank) for rank in range(stages)]
    for group in (post.expected, post.sent):  # made before there are threads
        for tag in range(units * len(flow.chunks)):
            for rank in range(stages):
                _ = group[rank, (rank + 1) % stages, tag]
    jobs = [
        threading.Thread(target=pipeline.run, args=(flow, rank, units, works[rank], mails[rank], NO_PULSE), daemon=True)
        for rank in range(stages)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(30)
    assert works[-1].done == dict.fromkeys(range(units), stages * rounds)
    assert max(mail.most for mail in mails) <= pipeline.BEHIND + 1
    assert all(mail.held == 0 for mail in mails)
