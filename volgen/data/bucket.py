"""Objects under an address such as ``s3://bucket/store``, through tensorstore's own S3 driver.

Endpoint, region and credentials are those of the environment (``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ...) or of
AWS's own files; nothing of them is kept here, so nothing of them gets into a file or a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import tensorstore as ts

from volgen.core.errors import UserError

SCHEME = "s3://"
RETRIES: Mapping[str, Any] = {"max_retries": 6, "initial_delay": "1s", "max_delay": "16s"}
"""How often a request without an answer, or answered by "later", is repeated: 1, 2, 4, 8, 16 and 16 seconds after the one before."""
STALLED = {"TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "60", "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1"}
"""Seconds without a byte after which a request counts as not answered; tensorstore would wait for ever. Read when it is first used."""
ANSWER = "an answer of its server"
AGAIN = "run the same command again when it answers: it goes on from where it was (see AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID)"
_ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9._-]*)(/[^/].*)?/?")


class Bucket:
    """What is under one address. Not to be carried over a fork.

    Raises:
        UserError: the address is not one of S3.
    """

    def __init__(self, url: str) -> None:
        match = _ADDRESS.fullmatch(url)
        if match is None:
            raise UserError(url, "is no address of S3", "s3://bucket/store")
        self.url = url.rstrip("/")
        for name, value in STALLED.items():
            os.environ.setdefault(name, value)
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ("us-east-1" if endpoint else None)
        self._spec: dict[str, Any] = {
            "driver": "s3",
            "bucket": match[1],
            "path": f"{(match[2] or '').strip('/')}/".lstrip("/"),
            "use_conditional_write": True,
            **({"endpoint": endpoint.rstrip("/")} if endpoint else {}),
            **({"aws_region": region} if region else {}),
            # Asked for by name, because AWS's library complains on the screen of every file of its own that is not there.
            **({"aws_credentials": {"type": "environment"}} if "AWS_ACCESS_KEY_ID" in os.environ else {}),
        }
        self._context = ts.Context({"s3_request_retries": dict(RETRIES)})
        self._objects = self._do("", ts.KvStore.open(self._spec, context=self._context))

    def __str__(self) -> str:
        return self.url

    def array(self, folder: str) -> Any:
        """A Zarr array under a name, as a tensorstore. Absent data is an error, not zeros; errors are tensorstore's own."""
        kvstore = {**self._spec, "path": f"{self._spec['path']}{folder}/"}
        spec = {"driver": "zarr3", "kvstore": kvstore, "fill_missing_data_reads": False}
        return ts.open(spec, read=True, open=True, context=self._context).result()

    def read(self, name: str) -> bytes | None:
        """Content of an object, None if there is none.

        Raises:
            UserError: no answer, or one that refuses.
        """
        return self.look(name)[0]

    def look(self, name: str) -> tuple[bytes | None, bytes]:
        """Content of an object, None if there is none, and what tells this version from others: for :meth:`swap`.

        Raises:
            UserError: no answer, or one that refuses.
        """
        found = self._do(name, self._objects.read(name))
        return None if found.state == "missing" else bytes(found.value), bytes(found.stamp.generation)

    def swap(self, name: str, content: bytes | None, stamp: bytes) -> bytes | None:
        """Writes (or removes) an object if it still is the version of a stamp; the new stamp, or None if it is another one.

        Raises:
            UserError: no answer, or one that refuses.
        """
        return bytes(self._do(name, self._objects.write(name, content, if_equal=stamp)).generation) or None

    def write(self, name: str, content: bytes) -> None:
        """Writes an object, whole or not at all.

        Raises:
            UserError: no answer, or one that refuses.
        """
        self._do(name, self._objects.write(name, content))

    def remove(self, name: str) -> None:
        """Removes an object, if there is one.

        Raises:
            UserError: no answer, or one that refuses.
        """
        self._do(name, self._objects.write(name, None))

    def names(self, start: str = "") -> list[str]:
        """Names of all objects that begin with a text.

        Raises:
            UserError: no answer, or one that refuses.
        """
        keys = ts.KvStore.KeyRange(start, f"{start}\U0010ffff")
        return sorted(bytes(name).decode("utf-8", "surrogateescape") for name in self._do(start, self._objects.list(keys)))

    def has(self, name: str) -> bool:
        """Whether there is such an object.

        Raises:
            UserError: no answer, or one that refuses.
        """
        return name in self.names(name)

    def _do(self, name: str, future: Any) -> Any:
        try:
            return future.result()
        except ValueError as error:  # tensorstore's, for everything
            where = f"{self.url}/{name}" if name else self.url
            raise UserError(where, f"cannot be reached ({in_words(error)})", ANSWER, AGAIN) from None


def in_words(error: BaseException) -> str:
    """What tensorstore says of an error on one line, without what the server answered word for word: that may repeat a key."""
    return " ".join(str(error).split()).partition(" [")[0][:300]
