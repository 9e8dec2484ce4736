"""Ingest into a bucket of S3 writes the bytes that it writes into a folder, goes on after being killed, and is alone there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from s3_server import KEY, SECRET, S3Server

from volgen.cli import main
from volgen.commands.ingest.ingest import ingest
from volgen.core.errors import UserError
from volgen.data.bucket import Bucket
from volgen.data.ingest import lease, target
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.store import Store

CONFIG = IngestConfig(shape=(16, 18, 16), voxel_size=2.0)


def people(folder: Path, count: int) -> Path:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (28, 30, 14)], indexing="ij"))
    for person in range(count):
        folder.mkdir(exist_ok=True)
        blob = 800 * ((grid**2).sum(0) < 0.6) + np.random.default_rng(person).normal(0, 20, (28, 30, 14))
        nib.save(nib.Nifti1Image(blob.astype(np.float32), np.diag([1.2, 1.2, 2.5, 1.0])), folder / f"sub-{person:02d}_T1w.nii.gz")
    return folder


def told(files: dict[str, bytes]) -> dict[str, Any]:
    """Files of a store, the manifest without what an ingest took."""
    manifest = json.loads(files["manifest.json"])
    took = ("wall_seconds", "peak_memory_bytes", "seal")
    return files | {"manifest.json": {key: value for key, value in manifest.items() if key not in took}}


def on_disk(store: Path) -> dict[str, Any]:
    return told({path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()})


@pytest.fixture
def address(s3: S3Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a store that is not there yet."""
    monkeypatch.setattr(lease, "BEAT", 0.1)
    monkeypatch.setattr(lease, "UNUSED", 3.0)
    target._bucket.cache_clear()
    yield f"{s3.bucket(request.node.name.replace('_', '-')[:60])}/deep/cohort"
    target._bucket.cache_clear()


def test_the_bytes_are_those_of_a_folder(tmp_path: Path, s3: S3Server, address: str, capfd: pytest.CaptureFixture[str]) -> None:
    people(tmp_path / "in", 3)
    ingest(tmp_path / "in", address, CONFIG)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert told(s3.objects(address)) == on_disk(tmp_path / "store")
    for record in (store := Store.open(address)).records:
        store.verify(record)
    everything = [*s3.objects(address).values(), *(text.encode() for text in capfd.readouterr())]
    assert not any(secret.encode() in content for content in everything for secret in (KEY, SECRET, s3.endpoint))

    # People come to it, by other processes; what is there is kept, and a scan that lost a part is made again.
    s3.delete(f"{address}/sub-01/0/c/0/0/0")
    people(tmp_path / "in", 4)
    assert ingest(tmp_path / "in", address, CONFIG, workers=2).resumed == 2
    ingest(tmp_path / "in", tmp_path / "four", CONFIG)
    assert told(s3.objects(address)) == on_disk(tmp_path / "four")


def test_the_manifest_comes_last_and_a_stopped_ingest_goes_on(
    tmp_path: Path, s3: S3Server, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(tmp_path / "in", 3)
    write, left = Bucket.write, [16]

    def fails(self: Bucket, name: str, content: bytes) -> None:
        left[0] -= 1
        if not left[0]:
            raise UserError(f"{self}/{name}", "cannot be reached")
        write(self, name, content)

    monkeypatch.setattr(Bucket, "write", fails)
    with pytest.raises(UserError, match=f"{address}/sub-.*cannot be reached"):
        ingest(tmp_path / "in", address, CONFIG)
    monkeypatch.setattr(Bucket, "write", write)
    there = s3.objects(address)
    whole = {name.partition("/")[0] for name in there if name.count("/") == 1 and name.endswith("zarr.json")}
    assert len(whole) < len({name.partition("/")[0] for name in there if "/" in name}), "one is half there"
    with pytest.raises(UserError, match=r"holds no manifest\.json: its ingest did not finish"):
        Store.open(address)
    assert ingest(tmp_path / "in", address, CONFIG).resumed == len(whole)
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert told(s3.objects(address)) == on_disk(tmp_path / "store")


def test_one_ingest_at_a_time(tmp_path: Path, s3: S3Server, address: str, capfd: pytest.CaptureFixture[str]) -> None:
    people(tmp_path / "in", 1)
    with lease.lease(Bucket(address), lease.title()), pytest.raises(UserError, match=rf"{address}: is being written by .* \(process \d+\)"):
        ingest(tmp_path / "in", address, CONFIG)
    assert s3.objects(address) == {}, "nothing was written, and the lease is gone"

    # One that was killed leaves its lease, which nobody renews.
    bucket = Bucket(address)
    bucket.write(".lock", b"elsewhere (process 1)\nabc\n0\n")
    ingest(tmp_path / "in", address, CONFIG)
    assert "marked as being written by elsewhere (process 1)" in capfd.readouterr().err
    assert ".lock" not in s3.objects(address)


def test_a_lease_that_another_one_took_ends_the_ingest(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    people(tmp_path / "in", 2)
    first = target.ingest_one

    def taken(*given: Any) -> Any:
        Bucket(address).write(".lock", b"elsewhere (process 1)\nabc\n0\n")
        return first(*given)

    monkeypatch.setattr(target, "ingest_one", taken)
    with pytest.raises(UserError, match="was taken over by another ingest"):
        ingest(tmp_path / "in", address, CONFIG)
    assert Bucket(address).names() == [".lock", "zarr.json"]


def test_what_is_somebody_elses_is_refused(tmp_path: Path, s3: S3Server, address: str) -> None:
    people(tmp_path / "in", 2)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    s3.upload(tmp_path / "other", address)
    with pytest.raises(UserError, match=rf"{address}: is not empty and not a store \(it holds thesis.txt\)"):
        ingest(tmp_path / "in", address, CONFIG)
    assert list(s3.objects(address)) == ["thesis.txt"]
    with pytest.raises(UserError, match="cannot be written to; expected a folder, or s3://bucket/store"):
        ingest(tmp_path / "in", "https://host/store", CONFIG)
    with pytest.raises(UserError, match="has a password"):
        ingest(tmp_path / "in", f"s3://{KEY}:{SECRET}@bucket/store", CONFIG)
    ingest(tmp_path / "in", f"{address}/new", CONFIG)
    with pytest.raises(UserError, match=f"{address}/new: was made with other settings: voxel_size was 2.0, now 3.0"):
        ingest(tmp_path / "in", f"{address}/new", CONFIG.model_copy(update={"voxel_size": 3.0}))


def test_a_server_that_is_gone_is_one_message(tmp_path: Path, s3: S3Server, address: str, capfd: pytest.CaptureFixture[str]) -> None:
    people(tmp_path / "in", 1)
    s3.kill()
    assert main(["ingest", str(tmp_path / "in"), address, "--shape", "16", "--voxel-size", "4"]) == 2
    said = capfd.readouterr().err
    assert f"{address}: cannot be reached" in said or f"{address}/" in said
    assert "retry attempts failed" in said and "Traceback" not in said and KEY not in said and SECRET not in said


KILLED = """
import sys, os
from pathlib import Path
from volgen.commands.ingest.ingest import ingest
from volgen.data.bucket import Bucket
from volgen.data.ingest.preprocess import IngestConfig
write, left = Bucket.write, [16]
def dying(self, name, content):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), 9)
    write(self, name, content)
Bucket.write = dying
ingest(Path(sys.argv[1]), sys.argv[2], IngestConfig(shape=(16, 18, 16), voxel_size=2.0))
"""


@pytest.mark.slow
def test_a_killed_ingest_goes_on(tmp_path: Path, s3: S3Server, address: str) -> None:
    people(tmp_path / "in", 3)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "in"), address], env=dict(os.environ), check=False, timeout=200)
    assert done.returncode == -9 and ".lock" in s3.objects(address)
    began = time.monotonic()
    assert 0 < ingest(tmp_path / "in", address, CONFIG).resumed < 3
    assert time.monotonic() - began > lease.UNUSED
    ingest(tmp_path / "in", tmp_path / "store", CONFIG)
    assert told(s3.objects(address)) == on_disk(tmp_path / "store")
