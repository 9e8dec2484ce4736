"""Where a store is: a folder, a bucket of S3, or anything else that fsspec reads (``https://``, ``memory://``, ...)."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any, Protocol

import fsspec
import tensorstore as ts

from volgen.core.cores import cores
from volgen.core.errors import UserError
from volgen.core.files import read_json
from volgen.core.manifest import NAME
from volgen.core.progress import say
from volgen.data.bucket import ANSWER, SCHEME, Bucket

EXPECTED = "a store made by `volgen ingest`"
ADDRESS = "an address such as s3://bucket/store, or another that fsspec knows"
ARRAY, SHARD = "zarr.json", "c/0/0/0"
"""Files of an array."""
SECRET = re.compile(r"//[^/:]*:.*@|^https?://[^/]*@|\?")
"""A password, or a signature after a question mark, in one part of an address. A name alone (``abfs://container@account``) is none."""
WAITS = (1.0, 5.0, 25.0)
"""Seconds before a scan that did not come is asked for again: a run of days must not end with one lost answer."""
BUSY = (408, 429)
"""HTTP's codes from 400 to 499 that mean: later."""
COPIERS = [ts.Context({"data_copy_concurrency": {"limit": 1}}) for _ in range(min(8, cores()))]
"""One thread each, which decodes a chunk and copies it while it is in its cache. tensorstore's own threads copy into an array that they
are given one after the other."""


def states_of(level: int) -> str:
    """Name of the array of the states through which a drawn volume came, as means over cubes of 2^level voxels."""
    return f"states{level or ''}"


class Place(Protocol):
    """What a store asks of where it is; as text, what messages call it.

    Attributes:
        most: arrays that may be open at once, or None for any number.
        copiers: how often a scan may be opened, so that as many threads copy what they decode.
        readable: what is expected where data cannot be read for no fault of its own, for messages.
    """

    most: int | None
    copiers: int
    readable: str

    def manifest(self) -> dict[str, Any]:
        """Content of the manifest.

        Raises:
            UserError: no finished store is there, or it cannot be reached.
        """
        ...

    def array(self, name: str, copier: int | None = None, level: int | str = 0) -> Any:
        """The codes of a scan as a tensorstore, axes z, y, x. Absent data is an error, not zeros.

        Args:
            name: the scan's group.
            copier: opens it for one of the threads that copy; None: for all of tensorstore's.
            level: 0 for its voxels, a coarser level, or the name of what else is kept.
        """
        ...

    def lacks(self, name: str, level: int | str = 0) -> bool:
        """Whether the data of a scan, or of one of its levels, is not there at all."""
        ...

    def gone(self) -> bool:
        """Whether not even the manifest is there any more."""
        ...


class Local:
    """A store in a folder of this machine."""

    most: int | None = 512  # each holds up to a megabyte of memory in place
    copiers: int = len(COPIERS)
    readable: str = "files that this process may open"

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def manifest(self) -> dict[str, Any]:
        """Content of the manifest."""
        if not self.path.is_dir():
            raise UserError(str(self), "there is no such folder", EXPECTED)
        if not (self.path / NAME).exists():
            unfinished = (self.path / "zarr.json").exists()
            raise _no_manifest(str(self), unfinished)
        content: dict[str, Any] = read_json(self.path / NAME, EXPECTED)
        return content

    def array(self, name: str, copier: int | None = None, level: int | str = 0) -> Any:
        """The codes of a scan: chunks are read from the file as they are asked for."""
        return open_array(self.path / name, None if copier is None else COPIERS[copier], level)

    def lacks(self, name: str, level: int | str = 0) -> bool:
        """Whether the data of a scan, or of one of its levels, is not there at all."""
        return not (self.path / name / str(level) / SHARD).exists()

    def gone(self) -> bool:
        """Whether not even the manifest is there any more."""
        return not (self.path / NAME).exists()


class Remote:
    """A folder behind fsspec.

    A scan is fetched whole, in one request: packed it is one object of a few megabytes, which costs less than a request for each chunk.
    The packed scans used last are kept. Credentials are those of fsspec's own configuration and of the environment.

    Raises:
        UserError: no such protocol, the package for it is missing, or it cannot be reached.
    """

    most: int | None = 64
    copiers: int = 0  # to open is to fetch
    readable: str = ANSWER

    def __init__(self, url: str) -> None:
        self._name = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except Exception as error:  # some file systems connect at once, with errors of their own
            raise UserError(str(self), f"cannot be reached ({' '.join(str(error).split())[:200]})", ADDRESS) from None

    def __str__(self) -> str:
        return self._name

    def manifest(self) -> dict[str, Any]:
        """Content of the manifest."""
        try:
            content = json.loads(self._fetch(NAME))
        except FileNotFoundError:
            raise UserError(str(self), f"holds no {NAME}", EXPECTED) from None
        except Exception as error:  # each file system has errors of its own
            raise UserError(str(self), f"its {NAME} cannot be read ({' '.join(str(error).split())[:200]})", EXPECTED) from None
        return content if isinstance(content, dict) else {}

    def array(self, name: str, copier: int | None = None, level: int | str = 0) -> Any:
        """The codes of a scan, fetched.

        Raises:
            UserError: no answer.
            FileNotFoundError: the answer is that there is no such scan.
        """
        held = ts.KvStore.open({"driver": "memory"}, context=ts.Context()).result()
        for part in (ARRAY, SHARD):
            try:
                content = self._fetch_patiently(f"{name}/{level}/{part}")
            except FileNotFoundError:
                raise
            except Exception as error:  # nothing is known of the data, so nobody must be told to delete it
                found = f"its data cannot be fetched ({' '.join(str(error).split())[:200]})"
                raise UserError(f"subject {name} of {self}", found, "an answer", "run the same command again when there is one") from None
            held.write(part, content).result()
        return ts.open({"driver": "zarr3", "fill_missing_data_reads": False}, kvstore=held, read=True, open=True).result()

    def lacks(self, name: str, level: int | str = 0) -> bool:
        """Whether the data of a scan, or of one of its levels, is not there at all."""
        return not self._files.exists(f"{self._root}/{name}/{level}/{SHARD}")

    def gone(self) -> bool:
        """Whether not even the manifest is there any more."""
        return not self._files.exists(f"{self._root}/{NAME}")

    def _fetch_patiently(self, name: str) -> bytes:
        for wait in WAITS:
            try:
                return self._fetch(name)
            except (FileNotFoundError, PermissionError):  # an answer
                raise
            except Exception as error:  # each file system has errors of its own
                status = getattr(error, "status", None)  # aiohttp's
                if isinstance(status, int) and 400 <= status < 500 and status not in BUSY:
                    raise  # an answer too
                why = " ".join(str(error).split())[:200] or type(error).__name__
                say(f"{name} of {self} did not come ({why}); it is asked for again in {wait:g} s.")
                time.sleep(wait)
        return self._fetch(name)

    def _fetch(self, name: str) -> bytes:
        content: bytes = self._files.cat_file(f"{self._root}/{name}")
        return content


class Objects:
    """A bucket of S3, read by tensorstore: a whole scan is one request, a part of it one for each row of chunks.

    Requests that are not answered are repeated (:data:`volgen.data.bucket.RETRIES`).

    Raises:
        UserError: it cannot be reached.
    """

    most: int | None = 512
    copiers: int = 0  # each would send requests of its own
    readable: str = ANSWER

    def __init__(self, url: str) -> None:
        self._bucket = Bucket(url)

    def __str__(self) -> str:
        return str(self._bucket)

    def manifest(self) -> dict[str, Any]:
        """Content of the manifest."""
        found = self._bucket.read(NAME)
        if found is None:
            raise _no_manifest(str(self), self._bucket.has("zarr.json"))
        try:
            content = json.loads(found)
        except ValueError as error:
            raise UserError(f"{self}/{NAME}", f"cannot be read as JSON ({error})", EXPECTED) from None
        return content if isinstance(content, dict) else {}

    def array(self, name: str, copier: int | None = None, level: int | str = 0) -> Any:
        """The codes of a scan: chunks are fetched as they are asked for."""
        return self._bucket.array(f"{name}/{level}")

    def lacks(self, name: str, level: int | str = 0) -> bool:
        """Whether the data of a scan, or of one of its levels, is not there at all."""
        return not all(self._bucket.has(f"{name}/{level}/{part}") for part in (ARRAY, SHARD))

    def gone(self) -> bool:
        """Whether not even the manifest is there any more."""
        return not self._bucket.has(NAME)


def place(at: Path | str) -> Place:
    """A folder, or an address with ``://`` in it.

    An address with a credential in it is refused: it would be in the run's configuration and manifest, which go where the weights go.

    Raises:
        UserError: there is a credential in the address, or it cannot be reached.
    """
    if isinstance(at, Path) or "://" not in at:
        return Local(Path(at))
    refuse_secret(at)
    return Objects(at) if at.startswith(SCHEME) else Remote(at)


def refuse_secret(url: str) -> None:
    """Refuses an address with a credential in it, without repeating it.

    Raises:
        UserError: it has one.
    """
    if any(SECRET.search(part) for part in url.split("::")):
        found = "has a password, or what follows a question mark, in it"
        do = "credentials belong in fsspec's configuration or in the environment: a run's files name its store"
        raise UserError(f"{url.partition('://')[0]}://...", found, ADDRESS, do)


def _no_manifest(where: str, unfinished: bool) -> UserError:
    found = f"holds no {NAME}" + (": its ingest did not finish" if unfinished else "")
    return UserError(where, found, EXPECTED, "run the same ingest again, it will resume" if unfinished else "")


def open_array(group: Path, context: ts.Context | None = None, level: int | str = 0) -> Any:
    """The codes of a group on disk, or means of one of its levels, as a tensorstore, axes z, y, x. Absent data is an error, not zeros."""
    kvstore = {"driver": "file", "path": str((group / str(level)).resolve()) + "/"}
    spec = {"driver": "zarr3", "kvstore": kvstore, "fill_missing_data_reads": False}
    return ts.open(spec, read=True, open=True, context=context).result()
