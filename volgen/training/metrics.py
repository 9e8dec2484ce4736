"""``metrics.jsonl`` and TensorBoard: what a run has measured so far, without gaps or repetitions after a resume.

Several processes may train different phases of one run. Each appends its lines to the one file, holding a lock while it does, so that
lines stay whole; each phase has a TensorBoard folder of its own.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

from volgen.core.errors import UserError
from volgen.core.files import sync, write_text
from volgen.core.lock import Lock

NAME = "metrics.jsonl"
BOARD = "tensorboard"
LOCK = ".metrics.lock"
SECONDS_BETWEEN_WRITES = 2.0
"""People watch the file while training."""


class Metrics(Protocol):
    """Where numbers go."""

    def begin(self, phase: str, step: int) -> None:
        """The numbers of a phase follow, from the step after ``step``; what was written of later ones is undone."""
        ...

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Takes in finite numbers of one step of one phase."""
        ...

    def flush(self) -> None:
        """Makes what was written safe against the end of this process."""
        ...


class NoMetrics:
    """For ranks other than 0."""

    def begin(self, phase: str, step: int) -> None:
        """Nothing."""

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class MetricsFile:
    """Appends one JSON object per line, and the same numbers as TensorBoard scalars in a folder for each phase.

    Args:
        directory: the run.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._waiting: list[str] = []
        self._written = time.monotonic()
        self._board: Any = None

    def begin(self, phase: str, step: int) -> None:
        """The numbers of a phase follow, from the step after ``step``; what was written of later ones is undone."""
        # Imported here: it takes a second, and only rank 0 needs it.
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        _rewrite(self._directory, lambda lines: [line for line in lines if line["phase"] != phase or line["step"] <= step])
        self._board = SummaryWriter(str(self._directory / BOARD / phase), purge_step=step + 1)

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Takes in finite numbers of one step of one phase."""
        self._waiting.append(_text({"phase": phase, "step": step, **values}))
        with suppress(OSError):  # a full disk is told at the next checkpoint
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            with suppress(UserError):  # told when all ranks are ready for it: at the next checkpoint
                self.flush()

    def flush(self) -> None:
        """Makes what was written safe against the end of this process.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        if self._board is None:
            return
        self._written = time.monotonic()
        try:
            with Lock.wait(self._directory / LOCK):
                _append(self._directory / NAME, "".join(self._waiting).encode())
            self._waiting.clear()
            self._board.flush()
        except OSError as error:
            found = f"cannot be written ({error.strerror or error})"
            do = "make room; the same command then goes on from the last good checkpoint"
            raise UserError(str(self._directory / NAME), found, "room and permission to write", do) from None

    def close(self) -> None:
        """Ends both."""
        if self._board is not None:
            self.flush()
            self._board.close()
            self._board = None


def put_in_order(directory: Path, phases: Sequence[str]) -> None:
    """Sorts the lines of a finished run by phase, however many processes wrote them side by side."""
    places = {phase: place for place, phase in enumerate(phases)}
    _rewrite(directory, lambda lines: sorted(lines, key=lambda line: (places.get(line["phase"], len(places)), line["step"])))


def _rewrite(directory: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Replaces the file by what ``change`` makes of its lines; a line that a killed process left half-written goes too."""
    path = directory / NAME
    with Lock.wait(directory / LOCK):
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = before[: before.rfind("\n") + 1]
        after = "".join(map(_text, change([_line(path, number, text) for number, text in enumerate(whole.splitlines(), 1)])))
        if after != before or not path.exists():
            write_text(path, after)


def _append(path: Path, content: bytes) -> None:
    """All of ``content`` or nothing, from the beginning of a line: what a killed process left of one is dropped."""
    with path.open("ab+", buffering=0) as file:
        end = _end_of_lines(file)
        file.truncate(end)
        if file.write(content) < len(content):
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    sync(path)  # no checkpoint or finished network may outlive its numbers when the power goes


def _end_of_lines(file: FileIO) -> int:
    size = file.seek(0, os.SEEK_END)
    while size:
        start = max(0, size - 4096)
        file.seek(start)
        whole = file.read(size - start).rfind(b"\n") + 1
        if whole:
            return start + whole
        size = start
    return 0


def _line(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        line: dict[str, Any] = json.loads(text)
        if not (isinstance(line["phase"], str) and isinstance(line["step"], int)):
            raise ValueError("phase or step has another form")
    except (ValueError, LookupError, TypeError, RecursionError):
        expected = "one JSON object in each line, with a phase and a step"
        raise UserError(str(path), f"line {number} is damaged", expected, "delete this line, or restore the file from a copy") from None
    return line


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
