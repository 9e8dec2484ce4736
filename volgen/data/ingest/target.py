"""Where an ingest writes: a folder, or a bucket of S3.

A bucket is worked on through a folder of this machine, scan by scan, so that both go through the same steps and end up with the same
bytes. An object store has no rename: of a scan the file that says what the others have to be comes last, of the store the manifest.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from volgen.core.errors import UserError
from volgen.core.folder import own
from volgen.core.manifest import NAME
from volgen.data.bucket import SCHEME, Bucket
from volgen.data.ingest.discover import Found
from volgen.data.ingest.frame import TEMPLATE
from volgen.data.ingest.lease import held, lease, title
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.ingest.subject import COARSER, PARTS, ROOT, SubjectOutcome, ingest_one
from volgen.data.place import refuse_secret

ELSEWHERE = "ingest into a new store"


class Destination(Protocol):
    """A store that is being made. It is sent to worker processes."""

    @property
    def folder(self) -> Path:
        """Where it is on this machine, or what is worked on of it."""
        ...

    def own(self, judge: Callable[[], object]) -> AbstractContextManager[None]:
        """Has the store to itself for the length of a block.

        Args:
            judge: raises if what is there is somebody else's.

        Raises:
            UserError: it is somebody else's, or another process is writing to it.
        """
        ...

    def begin(self) -> None:
        """Called when all that scans depend on is in the folder, before the first of them."""
        ...

    def ingest(self, found: Found, config: IngestConfig) -> SubjectOutcome:
        """One scan (:func:`ingest_one`); in any process."""
        ...

    def remove(self, name: str) -> None:
        """Removes a scan."""
        ...

    def finish(self) -> None:
        """Called when the manifest is in the folder."""
        ...


@dataclass(frozen=True)
class Disk:
    """A store in a folder."""

    folder: Path

    def own(self, judge: Callable[[], object]) -> AbstractContextManager[None]:
        """Has the folder's lock."""
        return own(self.folder, "the store", judge, elsewhere=ELSEWHERE)

    def begin(self) -> None:
        """Everything is where it belongs."""

    def ingest(self, found: Found, config: IngestConfig) -> SubjectOutcome:
        """Writes the group of one scan."""
        return ingest_one(found, self.folder, config)

    def remove(self, name: str) -> None:
        """Removes its folder."""
        shutil.rmtree(self.folder / name)

    def finish(self) -> None:
        """Everything is where it belongs."""


@dataclass(frozen=True)
class InBucket:
    """A store in a bucket.

    Attributes:
        url: the store's address.
        folder: a new folder of this machine. It has the small files that say what is in the store, and of scans those that are worked on.
        words: what this ingest's lease says.
    """

    url: str
    folder: Path
    words: str

    @contextmanager
    def own(self, judge: Callable[[], object]) -> Iterator[None]:
        """Has the store's lease, and has removed what a killed ingest has left of scans."""
        judge()  # before anything is written
        with lease(_bucket(self.url), self.words):
            self.look()
            judge()
            self._sweep()
            try:
                yield
            finally:
                if not (self.folder / ROOT).exists():  # nothing came of it
                    with suppress(UserError):
                        _bucket(self.url).remove(ROOT)

    def look(self) -> None:
        """Copies what is at the top of the store, and makes a folder for each scan; what else is there gets an empty file."""
        bucket = _bucket(self.url)
        for name in bucket.names():
            first, _, rest = name.partition("/")
            if first.startswith("."):
                continue
            if rest:
                (self.folder / first).mkdir(exist_ok=True)
            else:
                content = bucket.read(name) if name in (ROOT, NAME, TEMPLATE) else b""
                (self.folder / name).write_bytes(content or b"")

    def begin(self) -> None:
        """Sends what the store is made with: before any scan, as on a disk."""
        self._send([name for name in (TEMPLATE, ROOT) if (self.folder / name).exists()])

    def ingest(self, found: Found, config: IngestConfig) -> SubjectOutcome:
        """Brings what is there of a scan, goes on with it, and sends what is new; keeps what says how its arrays are."""
        bucket, group = _bucket(self.url), self.folder / found.id
        there = bucket.names(f"{found.id}/") if group.exists() else []
        for name in there:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(bucket.read(name) or b"")
        try:
            outcome = ingest_one(found, self.folder, config)
        except UserError as error:
            raise error if error.where == str(self.folder) else self.told(error) from None
        if not outcome.resumed:
            self._erase(there)
            self._send(sorted(path.relative_to(self.folder).as_posix() for path in group.rglob("*") if path.is_file()))
        for path in group.rglob("*"):
            if path.is_file() and path.name != ROOT:
                path.unlink()
        return outcome

    def remove(self, name: str) -> None:
        """Removes its objects."""
        self._erase(_bucket(self.url).names(f"{name}/"))
        shutil.rmtree(self.folder / name)

    def finish(self) -> None:
        """Sends the list of groups, and the manifest, which comes last."""
        self._send([ROOT, NAME])

    def told(self, error: UserError) -> UserError:
        """An error about what is worked on, as one about the store."""
        here = str(self.folder)
        return UserError(*(text.replace(here, self.url) for text in (error.where, error.found, error.expected, error.do)))

    def _sweep(self) -> None:
        bucket, names = _bucket(self.url), _bucket(self.url).names()
        for group in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            files = [name for name in names if name.startswith(f"{group.name}/")]
            if f"{group.name}/{ROOT}" not in files and all(name.partition("/")[2] in (*PARTS, *COARSER) for name in files):
                for name in files:
                    bucket.remove(name)
                group.rmdir()

    def _erase(self, names: list[str]) -> None:
        for name in sorted(names, key=_order):
            _bucket(self.url).remove(name)

    def _send(self, names: list[str]) -> None:
        if not names:
            return
        held(_bucket(self.url), self.words)
        for name in sorted(names, key=_order, reverse=True):
            _bucket(self.url).write(name, (self.folder / name).read_bytes())


@contextmanager
def target(store: Path | str) -> Iterator[Destination]:
    """Where a store is made: a folder, or a bucket of S3.

    Raises:
        UserError: an address of another kind, or one that cannot be reached.
    """
    if isinstance(store, Path):
        yield Disk(store)
        return
    refuse_secret(store)
    if not store.startswith(SCHEME):
        raise UserError(store, "cannot be written to", "a folder, or s3://bucket/store", "ingest into a folder, and copy it there")
    with tempfile.TemporaryDirectory(prefix="volgen-ingest-") as scratch:
        objects = InBucket(store.rstrip("/"), Path(scratch), title())
        try:
            objects.look()
            yield objects
        except UserError as error:
            raise objects.told(error) from None


def _order(name: str) -> tuple[bool, bool, str]:
    """Sorts names so that what says that others are whole comes first: it is removed first and written last."""
    first, _, rest = name.partition("/")
    return first != NAME, (rest or first) != ROOT, name


@cache
def _bucket(url: str) -> Bucket:
    """The bucket, opened once in each process."""
    return Bucket(url)
