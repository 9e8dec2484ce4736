"""File systems: how much is free, of which type they are, and a file by which other machines show that they see the same one."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from volgen.commands.doctor.finding import Finding
from volgen.core.errors import UserError
from volgen.core.files import UNFINISHED
from volgen.core.lock import Lock

SHARED_TYPES = frozenset({"afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "wekafs"})
LITTLE = 20 * 2**30
"""Bytes; a checkpoint of one expert of 95 M parameters takes 1.5 GB."""


def disk(folder: Path, name: str) -> Iterator[Finding]:
    """How much is free."""
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f}, {_type(folder)}"
    yield Finding(name, "ok", found) if usage.free >= LITTLE else Finding(name, "note", found, "volgen plan says what a run needs")


def shared_directory(folder: Path) -> Iterator[Finding]:
    """Whether a directory can hold a run: written to, and locked, by which jobs keep out of each other's way."""
    if not folder.is_dir():
        yield Finding("shared", "missing", f"there is no folder {folder}", "make it, on a file system that all machines mount")
        return
    try:
        lock = Lock.wait(folder / f"{UNFINISHED}{secrets.token_hex(4)}")
        lock.check()
        lock.release(remove=True)
    except (OSError, UserError) as error:
        reason = error.found if isinstance(error, UserError) else error.strerror
        yield Finding("shared", "missing", f"{folder} cannot be written to and locked: {reason}", "mount it writable, with locks")
        return
    yield from disk(folder, "shared disk")
    if _type(folder) in SHARED_TYPES:
        yield Finding("shared", "ok", f"{folder} is {_type(folder)}")
    else:
        found = f"{folder} is {_type(folder)}, which is local unless this machine exports it"
        yield Finding("shared", "note", found, "--hostfile asks the other machines whether they see it")


@contextmanager
def token(folder: Path | None) -> Iterator[tuple[Path, str] | None]:
    """A file with random content for the length of a block; None without a folder.

    Raises:
        UserError: it cannot be written.
    """
    if folder is None:
        yield None
        return
    path, text = folder.resolve() / f".volgen-doctor-{secrets.token_hex(8)}", secrets.token_hex(16)
    try:
        path.write_text(text)
    except OSError as error:
        raise UserError(str(folder), f"cannot be written to ({error.strerror})", "a folder that all machines share") from None
    try:
        yield path, text
    finally:
        path.unlink(missing_ok=True)


def _type(folder: Path) -> str:
    mounts = [entry for entry in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(entry.mountpoint)]
    return max(mounts, key=lambda entry: len(entry.mountpoint)).fstype if mounts else "of an unknown type"
