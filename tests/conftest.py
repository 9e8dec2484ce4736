"""Fixtures for every test."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

# Before torch is imported: tests share the machine's cores with each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ.get("VOLGEN_CHECK_DEVICE") != "cuda":  # the GPU check says otherwise
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import tarfile
from pathlib import Path

import hypothesis
import pytest
import torch
from s3_server import S3Server

# The same examples in every run, and no time limit for one: the machine may be busy.
hypothesis.settings.register_profile("volgen", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("volgen")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What fixtures draw without naming a seed, such as a network's first weights, depends neither on the process nor on other tests."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """What the test itself draws, likewise."""
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of tests/faults, which pytest looks for here."""
    form = "short: a sample of the faults that tests/faults knows, in about a minute; full: all of them, in about an hour"
    parser.addoption("--faults", choices=("short", "full"), default="short", help=form)
    parser.addoption("--faults-table", metavar="FILE", help="append to this file, as JSON lines, how many faults were injected and lost")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real scans named by VOLGEN_TEST_DATA (brains-2mm/ and native/); skips, saying so, without it."""
    named = os.environ.get("VOLGEN_TEST_DATA")
    if not named:
        pytest.skip("VOLGEN_TEST_DATA is not set: this test needs the folder of real scans that holds brains-2mm/ and native/")
    folder = Path(named)
    if not (folder / "brains-2mm").is_dir():
        pytest.fail(f"VOLGEN_TEST_DATA is {folder}, which has no brains-2mm/")
    return folder


@pytest.fixture(scope="session")
def bids_errors() -> Callable[[Path], list[str]]:
    """What the BIDS validator has against a folder, one line for each error; skips, saying so, where it is not installed."""
    beside = Path(sys.executable).with_name("bids-validator-deno")
    command = str(beside) if beside.exists() else shutil.which("bids-validator-deno")
    if command is None:
        pytest.skip("bids-validator-deno is not installed: it comes with `pip install volgen[test]`")

    def errors(folder: Path) -> list[str]:
        done = subprocess.run([command, str(folder), "--format", "json"], capture_output=True, text=True, check=False, timeout=120)
        issues = json.loads(done.stdout)["issues"]["issues"]
        return [f"{issue['code']} {issue.get('subCode', '')} {issue['location']}" for issue in issues if issue["severity"] == "error"]

    return errors


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample cohort as a BIDS tree, as `volgen cohort` gives it out."""
    from volgen.cohort import copy_to

    return copy_to(tmp_path_factory.mktemp("cohort") / "cohort")


@pytest.fixture(scope="session")
def blob_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 16 synthetic heads (an ellipsoid each) of 16^3 voxels of 8 mm, some of them for validation."""
    import nibabel as nib
    import numpy as np

    from volgen.commands.ingest.ingest import ingest
    from volgen.data.ingest.preprocess import IngestConfig

    folder = tmp_path_factory.mktemp("blobs")
    generator = np.random.default_rng(0)
    axes = np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij")
    (folder / "scans").mkdir()
    for person in range(16):
        radii, centre = generator.uniform(2, 4, 3), generator.uniform(-1, 1, 3)
        distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True))
        voxels = 500.0 * np.exp(-distance) + generator.uniform(0, 5, (16, 16, 16))
        image = nib.Nifti1Image(voxels.astype(np.float32), np.diag([8.0, 8.0, 8.0, 1.0]))
        nib.save(image, folder / "scans" / f"sub-{person:02d}_T1w.nii.gz")
    config = IngestConfig(shape=(16, 16, 16), voxel_size=8.0, validation=0.35, test=0.05)
    ingest(folder / "scans", folder / "store", config)
    return folder / "store"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that speaks S3, for :func:`s3` alone; skips, saying so, where it is not installed."""
    if not (importlib.util.find_spec("moto") and importlib.util.find_spec("flask_cors")):
        pytest.skip("moto is not installed: it comes with `pip install volgen[test]`")
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def s3(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server that speaks S3 on this machine, the environment that names it, and retries of a test's patience."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("volgen.data.bucket.RETRIES", {"max_retries": 3, "initial_delay": "0.1s", "max_delay": "0.2s"})
    s3_server.revive()
    return s3_server


@pytest.fixture(scope="session")
def unpacked_0_1_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What volgen 0.1.0 wrote (tests/fixtures/README.md), for :func:`made_by_0_1_0` alone."""
    return _unpacked("v0.1.0", tmp_path_factory)


@pytest.fixture
def made_by_0_1_0(unpacked_0_1_0: Path, tmp_path: Path) -> Path:
    """A folder with what volgen 0.1.0 wrote, to be changed at will."""
    return Path(shutil.copytree(unpacked_0_1_0, tmp_path / "v0.1.0", symlinks=True))


@pytest.fixture
def made_by_0_1_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what volgen 0.1.1 wrote, to be changed at will."""
    return _unpacked("v0.1.1", tmp_path_factory)


def _unpacked(version: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked") / version
    with tarfile.open(Path(__file__).parent / "fixtures" / f"{version}.tar.xz") as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(folder, filter="data")
        else:  # Python before 3.11.4
            archive.extractall(folder)  # the archive is our own
    return folder
