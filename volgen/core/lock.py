"""Files that at most one process holds at a time."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from volgen.core.errors import UserError


class Lock:
    """An exclusive ``flock`` on a file. The system lets go of it however the process ends, so no lock is ever left behind.

    The file says who holds it. Between machines it works on file systems that pass ``flock`` on (docs/training.md lists them); on one
    that only pretends to, :meth:`check` notices.
    """

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self._words = f"{socket.gethostname()} (process {os.getpid()})\n{secrets.token_hex(8)}\n"
        file.truncate(0)
        file.write(self._words)
        file.flush()

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """The lock, or None if another process (or another part of this one) has it; makes the file and its folder.

        Raises:
            UserError: the file system keeps no locks.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls._open(path, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @classmethod
    def wait(cls, path: Path) -> Self:
        """The lock, as soon as whoever has it lets go: for work of a moment.

        Raises:
            UserError: the file system keeps no locks.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = None
        while lock is None:
            lock = cls._open(path, fcntl.LOCK_EX)
        return lock

    @classmethod
    def _open(cls, path: Path, operation: int) -> Self | None:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, operation)
            if not _is_at(file, path):  # its holder has removed it meanwhile: that was another file's lock
                file.close()
                return None
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            file.close()
            found = f"its file system keeps no locks ({error.strerror})"
            raise UserError(str(path), found, "one that does", "see 'Several jobs' in docs/training.md") from None
        return cls(path, file)

    def check(self) -> None:
        """Makes sure that nobody else believes to have the lock: file systems exist whose locks end at the machine.

        Raises:
            UserError: the file no longer says what this lock wrote.
        """
        try:
            found = self._path.read_text(encoding="utf-8")
        except OSError as error:
            found = error.strerror or ""
        if found != self._words:
            what = f"is held by {self._words.splitlines()[0]}, and yet it says '{found.partition(chr(10))[0]}'"
            do = "use one job at a time, or see 'Several jobs' in docs/training.md"
            raise UserError(str(self._path), what, "a file system whose locks other machines respect", do)

    def release(self, *, remove: bool = False) -> None:
        """Lets go; ``remove`` also deletes the file, which is for work that will not be done again."""
        if remove:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def holder(path: Path) -> str | None:
    """Who holds a lock, such as ``node7 (process 4711)``; None if nobody does."""
    try:
        file = path.open("r+", encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.readline().strip() or "another process"
    return None


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
