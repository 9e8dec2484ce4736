"""That one ingest at a time writes to a bucket: a lease, because nobody there notices when a process dies.

Whoever has it changes the object again and again, on condition that nobody else did; so whoever sees it change must wait, and whoever
has watched it for long enough without a change may take it. No clocks are compared.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from volgen.core.errors import UserError
from volgen.core.folder import LOCK
from volgen.core.progress import say
from volgen.data.bucket import Bucket

BEAT = 5.0
"""Seconds between two changes of a lease."""
UNUSED = 60.0
"""Seconds without a change after which a lease is nobody's: more than its holder may wait for an answer to one change."""
ONE = "one ingest at a time"


@contextmanager
def lease(bucket: Bucket, words: str) -> Iterator[None]:
    """Has a store to itself for the length of a block.

    Args:
        bucket: the store.
        words: who has it (:func:`title`), for messages and for :func:`held`.

    Raises:
        UserError: another ingest has it, or its server knows no conditional writes.
    """
    stamp = _take(bucket, words)
    done = threading.Event()
    keeper = threading.Thread(target=_keep, args=(bucket, words, stamp, done), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        with suppress(UserError):  # it does not answer: the lease runs out
            if _says(bucket) == words:
                bucket.remove(LOCK)


def title() -> str:
    """A name for this process and what it is about to do."""
    return f"{socket.gethostname()} (process {os.getpid()})\n{secrets.token_hex(8)}\n"


def held(bucket: Bucket, words: str) -> None:
    """Makes sure that this ingest still has its lease; in any of its processes.

    Raises:
        UserError: it has not: it was stopped for so long that another one took it.
    """
    if _says(bucket) != words:
        found = "was taken over by another ingest, because this one did not answer for long"
        raise UserError(str(bucket), found, ONE, "run the same command again when that has ended")


def _take(bucket: Bucket, words: str) -> bytes:
    content, stamp = bucket.look(LOCK)
    if content is not None:
        who = content.decode("utf-8", "replace").partition("\n")[0] or "another process"
        say(f"{bucket} is marked as being written by {who}; if that shows no sign of life for {UNUSED:g} s, this ingest goes on with it.")
        until = time.monotonic() + UNUSED
        while time.monotonic() < until:
            time.sleep(BEAT / 2)
            now = bucket.look(LOCK)
            if now[0] is None:
                return _take(bucket, words)
            if now[1] != stamp:
                raise UserError(str(bucket), f"is being written by {who}", ONE, "wait for it to end, or ingest into a new store")
    own = bucket.swap(LOCK, f"{words}0\n".encode(), stamp)
    if own is None:  # somebody was quicker
        return _take(bucket, words)
    if content is None and bucket.swap(LOCK, f"{words}1\n".encode(), stamp) is not None:
        bucket.remove(LOCK)
        found = "is on a server that knows no conditional writes (If-None-Match), so two ingests at once could not be told apart"
        raise UserError(str(bucket), found, "one that does", "ingest into a folder, and copy it there")
    return own


def _keep(bucket: Bucket, words: str, stamp: bytes, done: threading.Event) -> None:
    beats = 0
    while not done.wait(BEAT):
        beats += 1
        with suppress(UserError):  # it does not answer now: it may later
            new = bucket.swap(LOCK, f"{words}{beats}\n".encode(), stamp)
            if new is None:  # another ingest has it, or the answer to an earlier change was lost
                content, new = bucket.look(LOCK)
                if not (content or b"").startswith(words.encode()):
                    return
            stamp = new


def _says(bucket: Bucket) -> str:
    """What a lease says of who has it, without what changes."""
    content = (bucket.look(LOCK)[0] or b"").decode("utf-8", "replace")
    return "".join(content.splitlines(keepends=True)[:2])
