"""What the nursery's children do beside volgen's commands."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path


def write_this_and_that(root: str) -> None:
    """Files written, synced and named in ways whose outcome is known."""
    folder = Path(root)
    handle = os.open(folder / "new", os.O_WRONLY | os.O_CREAT)
    os.write(handle, b"first")
    os.fsync(handle)
    os.close(handle)
    (folder / "new").rename(folder / "kept")
    (folder / "inner").mkdir()
    above = os.open(folder, os.O_RDONLY)
    os.fsync(above)
    os.close(above)
    with (folder / "kept").open("ab") as stream:
        stream.write(b"more")
    shutil.copyfile(folder / "kept", folder / "inner" / "copy")
    handle = os.open(folder / "inner" / "log", os.O_RDWR | os.O_CREAT)
    os.write(handle, b"abcdef")
    os.pwrite(handle, b"AB", 0)
    os.ftruncate(handle, 4)
    os.close(handle)


def read_store(store: str) -> None:
    """Prints a digest of all that training reads of a store; refuses as a command does."""
    import sys

    from volgen.core.errors import UserError
    from volgen.data.store import Store

    digest = hashlib.sha256()
    try:
        opened = Store.open(Path(store))
        for record in opened.records:
            digest.update(opened.read_unit(record).tobytes())
            digest.update(f"{record.id} {record.split} {record.patient} {record.intensity} {record.affine.tolist()}".encode())
    except UserError as error:
        print(f"error: {error}")
        sys.exit(2)
    print(digest.hexdigest())
