"""The same scans in an object store: for ``volgen bench stream --address s3://...``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from volgen.core.errors import UserError
from volgen.data.bucket import Bucket

NAME = "slices, object store"


@contextmanager
def uploaded(groups: Path, address: str | None) -> Iterator[Mapping[str, str]]:
    """Puts groups under an address for the length of a block; what the rows are called and where they read, nothing without an address.

    Raises:
        UserError: it is no address of S3, cannot be reached, or holds something.
    """
    if address is None:
        yield {}
        return
    bucket = Bucket(address)
    if names := bucket.names():
        raise UserError(address, f"is not empty (it holds {names[0]})", "an address with nothing under it, which is emptied again")
    written: list[str] = []
    try:
        for path in sorted(path for path in groups.rglob("*") if path.is_file()):
            written.append(path.relative_to(groups).as_posix())
            bucket.write(written[-1], path.read_bytes())
        yield {NAME: bucket.url}
    finally:
        for name in written:
            bucket.remove(name)
