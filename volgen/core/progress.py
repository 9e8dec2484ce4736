"""Progress for people: a bar with an ETA on a terminal, plain lines in a log, rank 0 only."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from volgen.core.printable import printable

SECONDS_BETWEEN_LINES = 10.0


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever listened, such as an ssh session, has gone: no reason to end a run (as rich does), least of all before it has saved.

        What follows goes nowhere, and so does what is in the buffer, at which Python would fail once more when the process ends.
        """
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)


console = _Console(stderr=True, highlight=False)
_shared = False
_muted = False


def share_terminal() -> None:
    """Shows progress in lines from now on: bars of several processes would overwrite each other."""
    global _shared
    _shared = True


@contextmanager
def muted() -> Iterator[None]:
    """Nothing is said inside: what a function says of a folder that its caller does not know of would only confuse."""
    global _muted
    before, _muted = _muted, True
    try:
        yield
    finally:
        _muted = before


class Ticker(Protocol):
    """What a loop tells its progress display."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """``count`` more items are done; ``note`` is shown beside the bar."""
        ...


class _Silent:
    def advance(self, count: int = 1, note: str = "") -> None:
        pass


class _Bar:
    def __init__(self, progress: Progress, label: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total, note="")

    def advance(self, count: int = 1, note: str = "") -> None:
        self._progress.update(self._task, advance=count, note=printable(note, keep=""))


class _Lines:
    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._start = self._last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        left = (now - self._start) / max(self._done, 1) * max(self._total - self._done, 0)
        say(f"{self._label}: {self._done}/{self._total}, {left:.0f} s left{', ' + printable(note, keep='') if note else ''}")


@contextmanager
def progress(label: str, total: int) -> Iterator[Ticker]:
    """Shows a loop of ``total`` items; nothing on ranks other than 0."""
    if os.environ.get("RANK", "0") != "0":
        yield _Silent()
    elif console.is_terminal and not _shared:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )  # fmt: skip
        with Progress(*columns, console=console) as bar:
            yield _Bar(bar, label, total)
    else:
        yield _Lines(label, total)


def say_next(*words: str | Path) -> None:
    """Prints the command that people usually give next, quoted for a shell."""
    say(f"Next: {shlex.join(map(str, words))}")


def say(message: str) -> None:
    """One line for the user on standard error; rank 0 only."""
    if os.environ.get("RANK", "0") == "0" and not _muted:
        with suppress(BrokenPipeError):
            console.print(printable(message), markup=False, soft_wrap=True)
            sys.stderr.flush()
