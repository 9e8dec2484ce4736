"""Ctrl-C, SIGTERM and SIGUSR1 become a flag that the training loop looks at, so that all ranks stop at the same step."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Self

from volgen.core.exit_codes import INTERRUPTED, SAVED

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ask to save and stop. If ranks got several, the first here counts: whoever pressed Ctrl-C does not want the job to start again."""
SECONDS_BEFORE_A_SECOND = 2.0


class Interrupted(Exception):
    """Training was asked to stop and has written a checkpoint.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = number

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C; after a scheduler's signal the code that asks to be started again."""
        return INTERRUPTED if self.signal == signal.SIGINT else SAVED


class Interrupt:
    """A context in which :data:`SIGNALS` only set :attr:`received`.

    A second SIGINT ends the process at once, but only some seconds after the first: a terminal sends Ctrl-C to torchrun and to its
    ranks, and torchrun passes it on, so each rank gets it twice. A repeated SIGTERM or SIGUSR1 is a launcher's, and never cuts a
    checkpoint short.

    Args:
        watch_parent: also stop when the process that started this one has gone: the deepspeed launcher may die and leave ranks
            behind (DeepSpeed#4098). Not for a single process, which people detach from their shell on purpose.
    """

    def __init__(self, watch_parent: bool = False) -> None:
        self._received = 0
        self._when = 0.0
        self._parent = os.getppid() if watch_parent else None
        self._before: dict[int, Any] = {}

    @property
    def received(self) -> int:
        """Number of the signal, 0 for none."""
        if self._parent is not None and os.getppid() != self._parent:
            return int(signal.SIGTERM)
        return self._received

    def tell(self, number: int) -> None:
        """Another part of this job has received a signal: that counts as if this process had."""
        self._received = self._received or number

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._set)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _set(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received and number == signal.SIGINT and now - self._when > SECONDS_BEFORE_A_SECOND:
            raise KeyboardInterrupt
        if not self._received:
            self._received, self._when = number, now


def heard(interrupt: Interrupt) -> list[float]:
    """The signals that this rank has received, each as 0 or 1: to be summed over ranks."""
    received = interrupt.received
    return [float(received == number) for number in SIGNALS]


def first(told: Sequence[float]) -> int:
    """The first signal that any rank has received, from the sums of :func:`heard`; 0 if none has."""
    return next((int(number) for number, count in zip(SIGNALS, told, strict=True) if count), 0)
