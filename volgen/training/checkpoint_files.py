"""The files of a checkpoint: written through to the disk, proved by checksum, read tensor by tensor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from volgen.core.errors import UserError
from volgen.core.files import fingerprint, read_bytes, read_json, sha256
from volgen.core.limits import STATE_BYTES
from volgen.core.run_files import STATE

File = dict[str, str | int]
"""SHA-256 and bytes of one file."""


def write_through(path: Path, content: bytes) -> File:
    """Writes a file through to the disk, reads it back and returns its checksum and size."""
    digest = hashlib.sha256(content).hexdigest()
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that it is read from the disk
    if sha256(path) != digest:
        raise UserError(str(path), "was read back with another content than was written", "a disk that keeps what it is given")
    return {"sha256": digest, "bytes": len(content)}


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, None if nothing is: its files have the sizes and checksums that it says.

    Raises:
        UserError: a file is there and cannot be read now, which says nothing about what is in it.
    """
    try:
        read_bytes(checkpoint / STATE, limit=STATE_BYTES)
        content = read_json(checkpoint / STATE, "the state of a checkpoint", limit=STATE_BYTES)
        if content.pop("fingerprint", None) != fingerprint(content):
            return f"{STATE} was changed"
        for name, file in content["files"].items():
            found = (checkpoint / name).stat().st_size
            if found != file["bytes"]:
                return f"{name} has {found} bytes instead of {file['bytes']}"
            if sha256(checkpoint / name) != file["sha256"]:
                return f"{name} has another checksum"
    except UserError as error:
        return f"{STATE} {error.found}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    except OSError as error:
        do = "look at the disk and start again; all checkpoints are as they were"
        raise UserError(str(error.filename or checkpoint), f"cannot be read ({error.strerror})", "a file that can", do) from None
    return None


class Parts(Mapping[str, Tensor]):
    """Tensors of one kind, read from the files of all ranks when they are asked for."""

    def __init__(self, checkpoint: Path, kind: str, files: Mapping[str, Any], opened: ExitStack) -> None:
        self._places: dict[str, Any] = {}
        for name in files:
            if name.rpartition("-")[0] == kind:
                handle = opened.enter_context(safe_open(checkpoint / name, framework="pt"))
                self._places.update(dict.fromkeys(handle.keys(), handle))

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._places[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
