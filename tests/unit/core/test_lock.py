from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from volgen.core.errors import UserError
from volgen.core.lock import Lock, holder

HOLD = """
import sys
from pathlib import Path
from volgen.core.lock import Lock

lock = Lock.take(Path(sys.argv[1]))
print("has it", flush=True)
input()
"""


def test_one_at_a_time_and_the_file_says_who(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    assert holder(path) is None
    lock = Lock.take(path)
    assert lock is not None
    assert Lock.take(path) is None
    assert holder(path) == f"{socket.gethostname()} (process {os.getpid()})"
    lock.release()
    assert holder(path) is None
    with Lock.wait(path):
        assert Lock.take(path) is None
    again = Lock.take(path)
    assert again is not None
    again.release(remove=True)
    assert not path.exists()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "has it\n"
    assert Lock.take(path) is None
    assert holder(path) == f"{socket.gethostname()} (process {process.pid})"
    process.kill()
    process.communicate()
    lock = Lock.take(path)
    assert lock is not None
    lock.release()


def test_a_lock_on_a_file_that_its_holder_has_removed_is_worth_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    first = Lock.take(path)
    assert first is not None
    flock = fcntl.flock

    def late(file: Any, operation: int) -> None:
        monkeypatch.undo()
        first.release(remove=True)  # between opening the file and locking it
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert Lock.take(path) is None
    second = Lock.take(path)
    assert second is not None
    assert Lock.take(path) is None
    second.release()


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Any, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match="its file system keeps no locks"):
        Lock.take(tmp_path / ".lock")


def test_a_lock_that_another_machine_did_not_respect_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    with Lock.wait(path) as mine:
        mine.check()
        monkeypatch.setattr(fcntl, "flock", lambda file, operation: None)  # as Lustre's localflock seems from another node
        other = Lock.take(path)
        assert other is not None
        other.check()
        with pytest.raises(UserError, match=r"expected a file system whose locks other machines respect"):
            mine.check()
        other.release()


def test_a_lock_is_no_way_to_empty_a_file_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "link").symlink_to(tmp_path / "letter")
    os.link(tmp_path / "letter", tmp_path / "hard")
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("link", "is a link"), ("hard", "hard links"), ("pipe", "not a regular file"), (".", "is a folder")):
        for ask in (Lock.take, Lock.wait):
            with pytest.raises(UserError, match=words):
                ask(tmp_path / name)
        holder(tmp_path / name)
    assert (tmp_path / "letter").read_text() == "dear"


def test_words_are_written_by_whoever_has_the_lock_only(tmp_path: Path) -> None:
    with Lock.wait(tmp_path / ".lock"):
        before = (tmp_path / ".lock").read_text()
        assert Lock.take(tmp_path / ".lock") is None
        assert (tmp_path / ".lock").read_text() == before
