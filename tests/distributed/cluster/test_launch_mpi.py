"""launch/mpi.sh with a real mpirun: two ranks of this machine, and one on each of two nodes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from namespaces import TwoNodes

pytestmark = [
    pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("mpirun") is None, reason="the MPI recipe needs mpirun, of the package openmpi-bin"),
]  # fmt: skip
LONG: dict[str, dict[str, Any]] = {
    "experts": {"count": 1}, "stopping": {"max_steps": 60, "validate_every": 20}, "engine": {"checkpoint_every": 5},
}  # fmt: skip
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def test_a_job_of_two_ranks_saves_when_it_is_terminated_and_goes_on(
    configure: Callable[..., Path], alone: Callable[..., Path], same_losses: Callable[..., None],
    environment: dict[str, str], repository: Path, tmp_path: Path,
) -> None:  # fmt: skip
    hostfile, run = tmp_path / "hostfile", tmp_path / "runs" / "mpi"
    hostfile.write_text("# this machine\nlocalhost slots=2\n")
    command = ["bash", "launch/mpi.sh", str(hostfile), "--config", str(configure("mpi", **LONG))]
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}

    def start() -> subprocess.Popen[str]:
        both = {"env": {**kept, **environment, **AS_ROOT}, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=repository, text=True, start_new_session=True, **both)  # type: ignore[call-overload]

    process = start()
    end = time.monotonic() + 300
    while not list(run.glob("experts/0/checkpoint-*")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 85, said
    assert "with 2 ranks by mpirun, rank 0 at localhost:" in said and "a checkpoint is written" in said
    assert not (run / "ensemble.json").exists(), "it was ended too late for this test"
    process = start()
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    same_losses(run, alone(**LONG))


def test_a_rank_on_each_of_two_nodes(
    nodes: TwoNodes, configure: Callable[..., Path], alone: Callable[..., Path], same_losses: Callable[..., None],
    environment: dict[str, str], repository: Path, tmp_path: Path,
) -> None:  # fmt: skip
    command = ["bash", "launch/mpi.sh", str(nodes.hostfile(1)), "--config", str(configure("mpi"))]
    process = nodes.start(0, command, cwd=repository, env={**environment, **AS_ROOT}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert f"with 2 ranks by mpirun, rank 0 at {nodes.nodes[0].address}:" in said
    same_losses(tmp_path / "runs" / "mpi", alone())
