"""launch/hostfile.sh on two nodes: DeepSpeed's launcher, pdsh, ssh, and a network between the ranks."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from namespaces import TwoNodes

# DeepSpeed is imported four times, one after another; a busy machine takes its time.
pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]
LONG: dict[str, dict[str, Any]] = {
    "experts": {"count": 1}, "stopping": {"max_steps": 60, "validate_every": 20}, "engine": {"checkpoint_every": 5, "zero_stage": 2},
}  # fmt: skip


@pytest.fixture
def launch(nodes: TwoNodes, environment: dict[str, str], repository: Path) -> Callable[..., subprocess.Popen[str]]:
    """``launch(config)``: starts the recipe on node 0, one rank on each node."""

    def start(config: Path) -> subprocess.Popen[str]:
        command = ["bash", "launch/hostfile.sh", str(nodes.hostfile(1)), "--config", str(config)]
        return nodes.start(0, command, cwd=repository, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return start


def test_two_nodes_two_local_ranks_and_one_rank_are_the_same_run(
    launch: Callable[..., subprocess.Popen[str]], nodes: TwoNodes, start: Callable[..., subprocess.Popen[str]],
    configure: Callable[..., Path], alone: Callable[..., Path], same_losses: Callable[..., None], tmp_path: Path,
) -> None:  # fmt: skip
    sections = {"engine": {"zero_stage": 3}}
    process = launch(configure("nodes", **sections))
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    address = nodes.nodes[0].address
    assert f"with 2 ranks by deepspeed, rank 0 at {address}:29500 on cpu" in said
    assert all(f"{node.address}: " in said for node in nodes.nodes), "pdsh says which machine a line is from"
    local = start("local", 2, **sections)
    _, errors = local.communicate(timeout=300)
    assert local.returncode == 0, errors
    same_losses(tmp_path / "runs" / "nodes", tmp_path / "runs" / "local", alone(**sections))


def test_a_node_without_a_network_is_named_before_anything_is_started(
    launch: Callable[..., subprocess.Popen[str]], nodes: TwoNodes, configure: Callable[..., Path], tmp_path: Path
) -> None:
    nodes.cut(1)
    try:
        process = launch(configure("cut"))
        said, _ = process.communicate(timeout=90)
    finally:
        nodes.heal(1)
    assert process.returncode == 1, said
    assert f"host {nodes.nodes[1].address}" in said and "cannot be reached: ssh: connect to host" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_ended_at_its_front_end_saves_on_all_nodes_and_goes_on(
    number: signal.Signals, launch: Callable[..., subprocess.Popen[str]], nodes: TwoNodes, configure: Callable[..., Path],
    alone: Callable[..., Path], same_losses: Callable[..., None], tmp_path: Path,
) -> None:  # fmt: skip
    run = tmp_path / "runs" / "ended"
    process = launch(configure("ended", **LONG))
    end = time.monotonic() + 200
    while not list(run.glob("experts/0/checkpoint-*")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, "what DeepSpeed's launcher says when it was interrupted"
    end = time.monotonic() + 60
    while ranks := [line for node in nodes.nodes for line in map(_command, nodes.processes(node)) if "-m volgen" in line]:
        assert time.monotonic() < end, f"left behind: {ranks}"
        time.sleep(0.1)
    assert not (run / "ensemble.json").exists(), "it was ended too late for this test"
    last = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    checkpoint = max(run.glob("experts/0/checkpoint-*"))  # the one before it is kept too
    assert int(checkpoint.name.removeprefix("checkpoint-")) == last, f"nothing that was trained is lost: {said}"
    process = launch(tmp_path / "ended.yaml")
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    same_losses(run, alone(**LONG))


def _command(number: int) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
