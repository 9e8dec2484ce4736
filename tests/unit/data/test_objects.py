"""A store in a bucket of S3 gives the batches of the same store in a folder, and says what is wrong when it cannot."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from s3_server import KEY, SECRET, S3Server

from volgen.core.errors import UserError
from volgen.data.augment import AugmentConfig
from volgen.data.store import Store
from volgen.data.stream import Stream, StreamConfig


@pytest.fixture
def there(s3: S3Server, blob_store: Path, request: pytest.FixtureRequest) -> str:
    """The store, in a bucket of the test's own."""
    address = f"{s3.bucket(request.node.name.replace('_', '-')[:60])}/cohorts/blobs"
    s3.upload(blob_store, address)
    return address


def test_batches_are_those_of_the_folder(there: str, blob_store: Path, s3: S3Server) -> None:
    local, remote = Store.open(blob_store), Store.open(there)
    assert remote.fingerprint == local.fingerprint and str(remote.path) == there
    config = StreamConfig(store="", shape=(16, 16, 16), cache_gib=0.0, augment=AugmentConfig(rotation_degrees=10, flip_left_right=True))
    with closing(Stream(local, "train", config, 1)) as one, closing(Stream(remote, "train", config, 1)) as other:
        for step in (0, 5, 2):
            first, second = one.batch(step), other.batch(step)
            assert first.ids == second.ids and torch.equal(first.x_BCXYZ, second.x_BCXYZ)
    record = local.records[0]
    remote.verify(record)
    assert np.array_equal(remote.read_slices(record, 1, 4, 6), local.read_slices(record, 1, 4, 6))
    before = s3.log().count("GET")
    remote.read(record)
    assert s3.log().count("GET") == before + 1, "a whole scan is one request"


def test_what_is_missing_or_damaged_names_the_scan(there: str, s3: S3Server, blob_store: Path, tmp_path: Path) -> None:
    store = Store.open(there)
    first, second, third = store.records[:3]
    data = bytearray((blob_store / first.id / "0/c/0/0/0").read_bytes())
    data[len(data) // 3] ^= 0x10
    (tmp_path / "shard").mkdir()
    (tmp_path / "shard" / "0").write_bytes(data)
    s3.upload(tmp_path / "shard", f"{there}/{first.id}/0/c/0/0")
    with pytest.raises(UserError, match=f"subject {first.id} of {there}: its data is damaged"):
        store.read(first)
    s3.delete(f"{there}/{second.id}/0/c/0/0/0")
    with pytest.raises(UserError, match=f"subject {second.id} of {there}: its data is missing"):
        store.read(second)
    s3.delete(f"{there}/{third.id}/0/zarr.json")
    with pytest.raises(UserError, match=f"subject {third.id} of {there}: its data is missing"):
        store.read(third)
    s3.delete(f"{there}/manifest.json")
    with pytest.raises(UserError, match=rf"{there}: holds no manifest\.json: its ingest did not finish"):
        Store.open(there)
    with pytest.raises(UserError, match=r"is no longer there"):
        store.read(third)


def test_a_server_that_is_gone_is_not_called_damage(there: str, s3: S3Server, blob_store: Path) -> None:
    store = Store.open(there)
    s3.kill()
    with pytest.raises(UserError, match=r"its data cannot be read .*retry attempts failed.*run the same command again") as caught:
        store.read(store.records[0])
    assert str(caught.value).startswith(f"subject {store.records[0].id} of {there}")
    with pytest.raises(UserError, match=r"cannot be reached .*AWS_ENDPOINT_URL") as opened:
        Store.open(there)
    for error in (caught.value, opened.value):
        assert "delete" not in str(error).lower() and KEY not in str(error) and SECRET not in str(error)
    s3.start()
    s3.upload(blob_store, s3.bucket(there.split("/")[2]) + "/cohorts/blobs")
    store.verify(store.records[0])  # the same store goes on


def test_a_server_that_comes_back_meanwhile_is_waited_for(there: str, s3: S3Server) -> None:
    store = Store.open(there)
    s3.suspend()
    threading.Timer(0.5, s3.resume).start()
    began = time.monotonic()
    store.verify(store.records[0])
    assert time.monotonic() - began > 0.4


@pytest.mark.parametrize("address", ["s3://", "s3:///store", "s3://Bucket With Spaces/store", "s3://bucket//store"])
def test_what_is_no_address_of_a_bucket_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="expected s3://bucket/store"):
        Store.open(address)


def test_a_bucket_that_is_not_there_holds_no_store(s3: S3Server) -> None:
    with pytest.raises(UserError, match=r"s3://nobody/store.*(NoSuchBucket|holds no manifest\.json)"):
        Store.open("s3://nobody/store")
