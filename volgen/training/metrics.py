"""``metrics.jsonl`` and TensorBoard: what a run has measured so far, without gaps or repetitions after a resume.

Several processes may train different phases of one run. Each appends its lines to the one file, holding a lock while it does, so that
lines stay whole; each phase has a TensorBoard folder of its own.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from volgen.core.errors import UserError
from volgen.core.files import atomic_path, open_plain, read_bytes, sync, write_text
from volgen.core.limits import METRICS_BYTES
from volgen.core.lock import Lock
from volgen.core.progress import say
from volgen.core.run_files import BOARD, METRICS, METRICS_LOCK

Line = dict[str, Any]
OTHER = b'{"phase": "'
"""How lines begin that were written here; what follows is the phase."""
SECONDS_BETWEEN_WRITES = 2.0
"""People watch the file while training."""


class Metrics(Protocol):
    """Where numbers go."""

    def begin(self, phase: str, step: int, digest: str = "") -> None:
        """The numbers of a phase follow, from the step after ``step``; what was written of later ones is undone.

        Args:
            phase: name of what is trained.
            step: step of the checkpoint that training goes on from, 0 for none.
            digest: what :meth:`digest` was then, if anybody knows.
        """
        ...

    def digest(self) -> str:
        """SHA-256 of all lines of the phase so far; empty for whoever writes none."""
        ...

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Takes in finite numbers of one step of one phase."""
        ...

    def flush(self) -> None:
        """Makes what was written safe against the end of this process."""
        ...


class NoMetrics:
    """Metrics that nobody writes, for ranks other than 0."""

    def begin(self, phase: str, step: int, digest: str = "") -> None:
        """Does nothing: rank 0 writes."""

    def digest(self) -> str:
        """Empty: no lines are written here."""
        return ""

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Does nothing: rank 0 writes."""

    def flush(self) -> None:
        """Does nothing: rank 0 writes."""

    def close(self) -> None:
        """Does nothing: rank 0 writes."""


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
        self._digest = hashlib.sha256()

    def begin(self, phase: str, step: int, digest: str = "") -> None:
        """The numbers of a phase follow, from the step after ``step``; what was written of later ones is undone."""
        # Imported here: it takes a second, and only rank 0 needs it.
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        kept = _undo(self._directory, phase, step)
        _say_changed(self._directory, kept, {phase: step}, {phase: digest})
        self._digest = _digest(kept, phase)
        self._board = SummaryWriter(str(self._directory / BOARD / phase), purge_step=step + 1)

    def digest(self) -> str:
        """SHA-256 of all lines of the phase so far, in their order."""
        return self._digest.hexdigest()

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Takes in finite numbers of one step of one phase."""
        self._waiting.append(_text({"phase": phase, "step": step, **values}))
        self._digest.update(self._waiting[-1].encode())
        with suppress(OSError):  # a full disk is told at the next checkpoint
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            with suppress(UserError):  # told when all ranks are ready for it: at the next checkpoint
                self._put(lasting=False)

    def flush(self) -> None:
        """Makes what was written safe against the end of this process, and of the machine.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        self._put(lasting=True)

    def _put(self, *, lasting: bool) -> None:
        if self._board is None:
            return
        self._written = time.monotonic()
        try:
            with Lock.wait(self._directory / METRICS_LOCK):
                _append(self._directory / METRICS, "".join(self._waiting).encode())
            self._waiting.clear()
            self._board.flush()
            if lasting:  # no checkpoint or finished network may outlive its numbers when the power goes
                sync(self._directory / METRICS)
        except OSError as error:
            found = f"cannot be written ({error.strerror or error})"
            do = "make room; the same command then goes on from the last good checkpoint"
            raise UserError(str(self._directory / METRICS), found, "room and permission to write", do) from None

    def close(self) -> None:
        """Ends both files."""
        if self._board is not None:
            self.flush()
            self._board.close()
            self._board = None


def put_in_order(
    directory: Path, phases: Sequence[str], steps: Mapping[str, int] | None = None, digests: Mapping[str, str] | None = None
) -> None:
    """Sorts the lines of a finished run by phase, however many processes wrote them side by side.

    Args:
        directory: the run.
        phases: all of them, in the order that is wanted.
        steps: that each of them took; where lines of some are missing, it is said.
        digests: :meth:`MetricsFile.digest` of each at its end, where it is known; where one is another now, it is said.
    """
    places = {phase: place for place, phase in enumerate(phases)}
    kept = _rewrite(directory, lambda lines: sorted(lines, key=lambda line: (places.get(line["phase"], len(places)), line["step"])))
    _say_changed(directory, kept, steps or {}, digests or {})


def read(directory: Path) -> list[Line]:
    """All whole lines of a run's file, in its order; none if there is no file.

    Raises:
        UserError: a line is damaged, or the file is a link, a pipe and the like.
    """
    path = directory / METRICS
    content = _content(path)
    return [_line(path, number, text) for number, text in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1)]


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path, limit=METRICS_BYTES) if os.path.lexists(path) else b""
    except OSError as error:
        raise UserError(str(path), f"cannot be read ({error.strerror or error})", "the metrics of a run") from None


def _say_changed(directory: Path, lines: Sequence[Line], steps: Mapping[str, int], digests: Mapping[str, str]) -> None:
    """Every step has written its line before training can go on from it: where one is missing or another, somebody has changed the file."""
    there = {(line["phase"], line["step"]) for line in lines}
    for phase, count in steps.items():
        lost = sum((phase, step) not in there for step in range(1, count + 1))
        digest = digests.get(phase, "")
        if lost or (digest and digest != _digest(lines, phase).hexdigest()):
            found = f"{lost} of the {count} lines of '{phase}' are gone" if lost else f"lines of '{phase}' are not those that were written"
            say(f"warning: {directory / METRICS}: {found}. Training does not need them and goes on.")


def _digest(lines: Iterable[Line], phase: str) -> Any:
    return hashlib.sha256("".join(_text(line) for line in lines if line["phase"] == phase).encode())


def _undo(directory: Path, phase: str, step: int) -> list[Line]:
    """Drops the lines of a phase after a step, and what a killed process left of one, and returns the phase's lines that stay.

    Lines of other phases are told by how they begin: a run of 200 networks would otherwise read its file into objects 200 times.

    Raises:
        UserError: a line of the phase is damaged, or the file is a link, a pipe and the like.
    """
    path, beginning = directory / METRICS, json.dumps({"phase": phase}).encode()[:-1] + b","
    kept: list[bytes] = []
    own: list[Line] = []
    with Lock.wait(directory / METRICS_LOCK):
        before = _content(path)
        for number, text in enumerate(before[: before.rfind(b"\n") + 1].splitlines(keepends=True), 1):
            if text.startswith(OTHER) and text.endswith(b"}\n") and not text.startswith(beginning):
                kept.append(text)
                continue
            line = _line(path, number, text)
            if line["phase"] != phase or line["step"] <= step:
                kept.append(text)
                own += [line] if line["phase"] == phase else []
        after = b"".join(kept)
        if after != before or not path.exists():
            with atomic_path(path) as temporary:
                temporary.write_bytes(after)
    return own


def _rewrite(directory: Path, change: Callable[[list[Line]], list[Line]]) -> list[Line]:
    """Replaces the file by what ``change`` makes of its lines, and returns these; a line that a killed process left half-written goes too.

    Raises:
        UserError: a line is damaged, or the file is a link, a pipe and the like.
    """
    path = directory / METRICS
    with Lock.wait(directory / METRICS_LOCK):
        before = _content(path)
        lines = change(read(directory))
        after = "".join(map(_text, lines))
        if after.encode() != before or not path.exists():
            write_text(path, after)
    return lines


def _append(path: Path, content: bytes) -> None:
    """All of ``content`` or nothing, from the beginning of a line: what a killed process left of one is dropped."""
    with open_plain(path, "ab+", buffering=0) as file:
        end = _end_of_lines(file)
        file.truncate(end)
        if file.write(content) < len(content):
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _end_of_lines(file: IO[bytes]) -> int:
    size = file.seek(0, os.SEEK_END)
    while size:
        start = max(0, size - 4096)
        file.seek(start)
        whole = file.read(size - start).rfind(b"\n") + 1
        if whole:
            return start + whole
        size = start
    return 0


def _line(path: Path, number: int, text: bytes) -> Line:
    try:
        line: Line = json.loads(text)
        if not (isinstance(line["phase"], str) and isinstance(line["step"], int)):
            raise ValueError("phase or step has another form")
        json.dumps(line, allow_nan=False)
    except (ValueError, LookupError, TypeError, RecursionError):
        expected = "one JSON object in each line, with a phase and a step"
        raise UserError(str(path), f"line {number} is damaged", expected, "delete this line, or restore the file from a copy") from None
    return line


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
