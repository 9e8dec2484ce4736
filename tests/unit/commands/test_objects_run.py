"""Training from a bucket of S3 gives the run that a folder gives, also when its server was gone meanwhile; other commands read it too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from s3_server import KEY, SECRET, S3Server

from volgen.cli import main
from volgen.core.files import sha256
from volgen.parallel.engine import Engine


@pytest.fixture
def address(s3: S3Server, blob_store: Path, request: pytest.FixtureRequest) -> str:
    """The blobs, in a bucket of the test's own."""
    where = f"{s3.bucket(request.node.name.replace('_', '-')[:60])}/blobs"
    s3.upload(blob_store, where)
    return where


def config(folder: Path, store: Path | str, runs: str) -> Path:
    content: dict[str, Any] = {
        "name": "run", "runs": str(folder / runs), "seed": 5,
        "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2, "cache_gib": 0.0},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 20.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8, 8], "norm_groups": 4},
        "preconditioner": {"kind": "edm"},
        "experts": {"count": 1},
        "engine": {"checkpoint_every": 2},
        "optimiser": {"warmup_steps": 2},
        "stopping": {"max_steps": 10, "validate_every": 2, "validation_volumes": 2, "validation_draws": 2},
    }  # fmt: skip
    path = folder / f"{runs}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_run_goes_on_when_its_server_is_back(
    address: str, blob_store: Path, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--config", str(config(tmp_path, blob_store, "whole"))]) == 0
    step, taken = Engine.step, []

    def strike(self: Engine, rate: float) -> float:
        taken.append(rate)
        if len(taken) == 4:
            s3.kill()
        return step(self, rate)

    monkeypatch.setattr(Engine, "step", strike)
    command = ["train", "--config", str(config(tmp_path, address, "far"))]
    capfd.readouterr()
    assert main(command) == 2
    said = capfd.readouterr().err
    assert f"of {address}: its data cannot be read" in said and "run the same command again" in said and "Traceback" not in said
    run = tmp_path / "far" / "run"
    assert (run / "experts").is_dir() and not (run / "ensemble.json").exists()
    s3.start()
    s3.upload(blob_store, f"{s3.bucket(address.split('/')[2])}/blobs")
    assert main(command) == 0
    whole = tmp_path / "whole" / "run"
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert sha256(run / "experts/0/weights.safetensors") == sha256(whole / "experts/0/weights.safetensors")
    written = [path for path in run.rglob("*") if path.is_file()]
    assert not any(secret.encode() in path.read_bytes() for path in written for secret in (KEY, SECRET, s3.endpoint))
    assert not any(secret in capfd.readouterr().err for secret in (KEY, SECRET))


def test_scans_are_exported_and_compared_with(address: str, blob_store: Path, tmp_path: Path) -> None:
    for name, store in (("near", str(blob_store)), ("far", address)):
        assert main(["export", store, "--out", str(tmp_path / name), "--ids", "sub-00", "sub-01"]) == 0
    near, far = (sorted((tmp_path / name).rglob("*.nii.gz")) for name in ("near", "far"))
    assert [sha256(path) for path in near] == [sha256(path) for path in far] and len(near) == 2


@pytest.mark.slow
def test_a_report_on_an_address_is_that_on_the_folder(address: str, blob_store: Path, tmp_path: Path) -> None:
    reports = []
    for name, store in (("near", str(blob_store)), ("far", address)):
        code = main(["report", str(blob_store), "--reference", store, "--out", str(tmp_path / name)])
        report = json.loads((tmp_path / name / "report.json").read_text())
        reports.append((code, report["volumes"], report["reference"]["fingerprint"]))
    assert reports[0] == reports[1]
