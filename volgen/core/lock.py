"""Files that at most one process holds at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from volgen.core.errors import UserError
from volgen.core.files import is_at, make_folder, open_plain, read_bytes

LARGEST = 4096
"""Bytes of a lock file that make sense."""
_NO_LOCK = (errno.ELOOP, errno.EINVAL, errno.EISDIR)


class Lock:
    """An exclusive ``flock`` on a file. The system lets go of it however the process ends, so no lock is ever left behind.

    The file says who holds it. Between machines it works on file systems that pass ``flock`` on (docs/training.md lists them); on one
    that only pretends to, :meth:`check` notices.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._words = f"{socket.gethostname()} (process {os.getpid()})\n{secrets.token_hex(8)}\n"
        file.truncate(0)
        file.write(self._words.encode())

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """The lock, or None if another process (or another part of this one) has it; makes the file and its folder.

        Raises:
            UserError: the file system keeps no locks, or the file is not one that can be a lock.
        """
        return cls._open(path, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @classmethod
    def wait(cls, path: Path) -> Self:
        """The lock, as soon as whoever has it lets go: for work of a moment.

        Raises:
            UserError: the file system keeps no locks, or the file is not one that can be a lock.
        """
        lock = None
        while lock is None:
            lock = cls._open(path, fcntl.LOCK_EX)
        return lock

    @classmethod
    def _open(cls, path: Path, operation: int) -> Self | None:
        file = _lock_file(path)
        try:
            fcntl.flock(file, operation)
            if not is_at(file.fileno(), path):  # its holder has removed it meanwhile: that was another file's lock
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
            found = read_bytes(self._path, limit=LARGEST).decode("utf-8", "replace")
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
        file = open_plain(path, "r+b", buffering=0)
    except OSError:  # there is none, or none that volgen would take for one
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read(LARGEST).decode("utf-8", "replace").partition("\n")[0].strip() or "another process"
        except OSError:
            return None
    return None


def _lock_file(path: Path) -> IO[bytes]:
    """The file of a lock, which is made if need be, with its folder. Nothing is written to it: it is not locked yet."""
    for last in (False, False, True):
        make_folder(path.parent)
        try:
            file = open_plain(path, "ab+", buffering=0)
            break
        except FileNotFoundError:  # who had the folder before has just removed it, because nothing came of it
            if last:
                raise
        except OSError as error:
            if error.errno in _NO_LOCK:
                do = "delete it, if you do not know what it is for: somebody else made it"
                raise UserError(str(path), str(error.strerror), "a file of volgen's own, to lock", do) from None
            raise
    if os.fstat(file.fileno()).st_nlink > 1:
        file.close()
        raise UserError(str(path), "is a file of other names too (hard links)", "a file of volgen's own, to lock", "delete this name of it")
    return file
