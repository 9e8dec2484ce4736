"""Faults at random moments of real jobs: tests/distributed/chaos in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed


def chaos(store: Path, folder: Path, repository: Path, *words: str) -> None:
    command = [sys.executable, "-W", "ignore", str(repository / "tests" / "distributed" / "chaos"), "--store", str(store)]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    found = subprocess.run([*command, "--folder", str(folder), *words], env=environment, capture_output=True, text=True, check=False)
    print(found.stdout)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_four_faults_change_nothing(blob_store: Path, tmp_path: Path, repository: Path) -> None:
    chaos(blob_store, tmp_path, repository, "--rounds", "4", "--seed", "2", "--faults", "kill_in_write", "full_disk", "damage", "reshape")


@pytest.mark.slow
@pytest.mark.timeout(20_000)
def test_forty_faults_change_nothing(blob_store: Path, tmp_path: Path, repository: Path) -> None:
    chaos(blob_store, tmp_path, repository, "--rounds", "40", "--seed", "1")
