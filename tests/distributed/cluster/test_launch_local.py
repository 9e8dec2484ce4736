"""launch/local.sh on this machine, by torchrun and by DeepSpeed's launcher."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment_that_is_made(repository: Path, tmp_path: Path) -> dict[str, str]:
    """Variables with which the script takes the environment of this test for the one that it would make."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "python").chmod(0o755)
    stamp = hashlib.sha256(f"torch\n\n{repository}\n".encode() + (repository / "pyproject.toml").read_bytes()).hexdigest()
    (programs.parent / ".volgen-installed").write_text(f"{stamp}\n")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"VENV": str(programs.parent), "TORCH_SPEC": "torch", "PATH": path, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_two_ranks_of_this_machine(
    launcher: str, environment_that_is_made: dict[str, str], configure: Callable[..., Path], alone: Callable[..., Path],
    same_losses: Callable[..., None], repository: Path, tmp_path: Path,
) -> None:  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    done = subprocess.run(
        ["bash", "launch/local.sh", "2", "--config", str(configure("local"))], cwd=repository, text=True, capture_output=True, check=False,
        env={**kept, **environment_that_is_made, "LAUNCHER": launcher, "PYTHONPATH": str(repository)}, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"with 2 ranks by {launcher}, rank 0 at " in done.stdout + done.stderr
    same_losses(tmp_path / "runs" / "local", alone())


def test_a_launcher_that_does_not_exist_is_bad_usage(environment_that_is_made: dict[str, str], repository: Path) -> None:
    environment = {**os.environ, **environment_that_is_made, "LAUNCHER": "rsh"}
    done = subprocess.run(
        ["bash", "launch/local.sh", "2", "--config", "x"], cwd=repository, text=True, capture_output=True, check=False, env=environment
    )
    assert done.returncode == 2
    assert "LAUNCHER is 'rsh'" in done.stderr
