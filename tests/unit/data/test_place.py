"""A store behind fsspec gives the batches of the same store in a folder, and its damage is found too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from volgen.core.errors import UserError
from volgen.data.augment import AugmentConfig
from volgen.data.place import Remote
from volgen.data.store import Store
from volgen.data.stream import Stream, StreamConfig


@pytest.fixture
def memory(blob_store: Path) -> Iterator[str]:
    """The store, in fsspec's memory."""
    files = fsspec.filesystem("memory")
    files.put(f"{blob_store}/", "/cohort/", recursive=True)
    yield "memory://cohort"
    files.rm("/cohort", recursive=True)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(blob_store: Path) -> Iterator[str]:
    """The store, behind a web server on this machine."""
    pytest.importorskip("aiohttp", reason="fsspec needs aiohttp for http://")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(blob_store))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("kind", ["memory", "web"])
def test_batches_are_those_of_the_folder(
    kind: str, blob_store: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Remote, "most", 2)  # so that scans are fetched again
    local, remote = Store.open(blob_store), Store.open(request.getfixturevalue(kind))
    assert remote.fingerprint == local.fingerprint
    config = StreamConfig(store="", shape=(16, 16, 16), cache_gib=0.0, augment=AugmentConfig(rotation_degrees=10, flip_left_right=True))
    with closing(Stream(local, "train", config, 1)) as one, closing(Stream(remote, "train", config, 1)) as other:
        for step in (0, 5, 2):
            first, second = one.batch(step), other.batch(step)
            assert first.ids == second.ids and torch.equal(first.x_BCXYZ, second.x_BCXYZ)
    record = local.records[0]
    remote.verify(record)
    assert np.array_equal(remote.read_slices(record, 1, 4, 6), local.read_slices(record, 1, 4, 6))


def test_what_is_missing_or_damaged_is_named(memory: str) -> None:
    files, store = fsspec.filesystem("memory"), Store.open(memory)
    first, second = store.records[:2]
    shard = f"/cohort/{first.id}/0/c/0/0/0"
    data = bytearray(files.cat_file(shard))
    data[len(data) // 3] ^= 0x10
    files.pipe_file(shard, bytes(data))
    with pytest.raises(UserError, match=f"subject {first.id} of memory://cohort: its data is damaged"):
        store.read(first)
    files.rm(f"/cohort/{second.id}/0/c/0/0/0")
    with pytest.raises(UserError, match=f"subject {second.id} .*is missing"):
        store.read(second)
    files.rm("/cohort/manifest.json")
    with pytest.raises(UserError, match=r"memory://cohort: holds no manifest\.json"):
        Store.open(memory)


def test_a_store_that_does_not_answer_is_not_called_incomplete(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(memory)

    def fails(*_: object) -> bytes:
        raise ConnectionError("the network is down")

    monkeypatch.setattr(Remote, "_fetch", fails)
    monkeypatch.setattr("volgen.data.place.WAITS", (0.0, 0.0))
    record = store.records[0]
    with pytest.raises(UserError, match=f"subject {record.id} of .*cannot be fetched .the network is down") as caught:
        store.read(record)
    assert "delete" not in str(caught.value).lower()


def test_a_scan_that_does_not_come_is_asked_for_again(
    memory: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, fetch, asked = Store.open(memory), Remote._fetch, []

    def fails_twice(self: Remote, name: str) -> bytes:
        asked.append(name)
        if len(asked) in (1, 2):
            raise TimeoutError
        return fetch(self, name)

    monkeypatch.setattr(Remote, "_fetch", fails_twice)
    monkeypatch.setattr("volgen.data.place.WAITS", (0.0, 0.0))
    record = store.records[0]
    store.read(record)
    assert asked == [f"{record.id}/0/zarr.json"] * 3 + [f"{record.id}/0/c/0/0/0"]
    assert "did not come (TimeoutError)" in capsys.readouterr().err

    forbidden = OSError("403, Forbidden")
    forbidden.status = 403  # type: ignore[attr-defined]  # as aiohttp's
    for answer in (FileNotFoundError("none"), PermissionError("no"), forbidden):
        asked.clear()

        def answers(self: Remote, name: str, answer: Exception = answer) -> bytes:
            asked.append(name)
            raise answer

        monkeypatch.setattr(Remote, "_fetch", answers)
        with pytest.raises(UserError):
            store.read(store.records[1])
        assert len(asked) == 1, "that is an answer"


@pytest.mark.parametrize("address", ["nonsense://host/store", "ftp://127.0.0.1:1/store", "zip://store::file:///nowhere.zip"])
def test_addresses_that_nothing_reads_are_refused(address: str) -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        Store.open(address)


@pytest.mark.parametrize(
    "address",
    [
        "memory://somebody:secret@host/store",
        "https://somebody:p@secret@host/store",
        "https://somebody:a/secret@host/store",
        "https://secret@host/store",
        "https://host/store?signature=secret",
        "simplecache::s3://key:secret@bucket/store",
    ],
)
def test_addresses_with_a_credential_are_refused_without_repeating_it(address: str) -> None:
    # The address is written into config.yaml and manifest.json of the run.
    with pytest.raises(UserError, match=r"has a password.*fsspec's configuration") as caught:
        Store.open(address)
    assert "secret" not in str(caught.value)
