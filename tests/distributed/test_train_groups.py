"""Groups of ranks, and jobs that share a run, train the same experts as one process does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from volgen.core.files import sha256

pytestmark = pytest.mark.distributed

Alone, Start = Callable[..., Path], Callable[..., subprocess.Popen[str]]
CHAINS: dict[str, dict[str, Any]] = {
    "experts": {"count": 5, "chains": 2, "shared_steps": 3},
    "stopping": {"max_steps": 6, "validate_every": 2, "patience": 1, "min_gain": 0.05},  # experts end at different steps
}
ARRAY: dict[str, dict[str, Any]] = {
    "experts": {"count": 4, "warm_start": "shared", "shared_steps": 3},
    "stopping": {"max_steps": 30, "min_steps": 30, "validate_every": 15},
    "engine": {"checkpoint_every": 3},
}


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, str]:
    return {path.parent.name: sha256(path) for path in sorted(run.glob("experts/*/weights.safetensors"))}


def trained_by(run: Path) -> dict[str, list[str]]:
    """Phase -> processes that trained it, one for each time: TensorBoard's files are named ``events...<host>.<process>.<n>``."""
    found: dict[str, list[str]] = {}
    for path in sorted(run.glob("tensorboard/*/events.*")):
        found.setdefault(path.parent.name, []).append(path.name.split(".")[-2])
    return found


def finish(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return errors


def test_two_groups_of_one_rank_are_one_process_bit_by_bit(alone: Alone, start: Start, tmp_path: Path) -> None:
    # A batch of 3 cannot be shared by 2 ranks, so one group trains the shared network while the other waits.
    sections = {**CHAINS, "data": {"batch_size": 3}}
    errors = finish(start("groups", 2, **{**sections, "experts": {**CHAINS["experts"], "groups": 2}}))
    one, two = alone(**sections), tmp_path / "runs" / "groups"
    assert "2 groups train experts side by side; ranks in each: 1." in errors
    assert "Waiting for the shared network" in errors
    assert weights(two) == weights(one)
    assert metrics(two) == metrics(one), "in the order of the plan, whoever was first"
    assert len({line["step"] for line in metrics(one) if line["phase"] != "shared"}) < 6 or len(metrics(one)) < 33, "some ended early"
    by = trained_by(two)
    assert all(len(processes) == 1 for processes in by.values()), by


def test_both_groups_train_where_no_expert_waits_for_another(start: Start, tmp_path: Path) -> None:
    # The groups begin together, and an expert takes far longer than the other group needs to look for one.
    experts = {"count": 2, "warm_start": "none", "groups": 2}
    stopping = {"max_steps": 40, "min_steps": 40, "validate_every": 20}
    finish(start("groups", 2, experts=experts, stopping=stopping, data={"batch_size": 3}))
    by = trained_by(tmp_path / "runs" / "groups")
    assert sorted(by) == ["0", "1"]
    assert by["0"] != by["1"], "each group trained one of the two"


def close(one: Path, two: Path, tolerance: float) -> None:
    assert [(line["phase"], line["step"]) for line in metrics(one)] == [(line["phase"], line["step"]) for line in metrics(two)]
    for single, double in zip(metrics(one), metrics(two), strict=True):
        assert double["loss"] == pytest.approx(single["loss"], rel=tolerance), (single, double)
    for name in weights(one):
        single, double = (load_file(run / "experts" / name / "weights.safetensors") for run in (one, two))
        size = torch.cat([tensor.flatten() for tensor in single.values()])
        apart = torch.cat([(single[name] - double[name]).flatten() for name in single])
        assert float(apart.norm() / size.norm()) < tolerance, name


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_groups_of_two_ranks_are_one_process(stage: int, alone: Alone, start: Start, tmp_path: Path) -> None:
    # Four ranks train the shared network, then two and two the experts. Sums over ranks round in another order: hence a tolerance.
    stopping = {"max_steps": 3, "min_steps": 3, "validate_every": 2}
    sections: dict[str, dict[str, Any]] = {"experts": {"count": 4, "chains": 2, "shared_steps": 3}, "stopping": stopping}
    errors = finish(start("groups", 4, engine={"zero_stage": stage}, **{**sections, "experts": {**sections["experts"], "groups": 2}}))
    assert "2 groups train experts side by side; ranks in each: 2." in errors
    close(alone(**sections), tmp_path / "runs" / "groups", 2e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_groups_stop_together_when_one_of_them_is_told_to(alone: Alone, start: Start, tmp_path: Path) -> None:
    experts = {"count": 2, "warm_start": "none"}
    stopping = {"max_steps": 150, "min_steps": 150, "validate_every": 50}
    sections = {"experts": experts, "stopping": stopping, "engine": {"checkpoint_every": 5}, "data": {"batch_size": 3}}
    grouped = {**sections, "experts": {**experts, "groups": 2}}
    run = tmp_path / "runs" / "groups"
    process = start("groups", 2, **grouped)
    end = time.monotonic() + 200
    while time.monotonic() < end and len(list(run.glob("experts/*/checkpoint-*/state.json"))) < 3 and process.poll() is None:
        time.sleep(0.01)
    told = int(trained_by(run)["1"][-1])
    os.kill(told, signal.SIGTERM)
    _, errors = process.communicate(timeout=240)
    assert errors.count("stopped by SIGTERM; a checkpoint is written.") == 2, errors
    assert "exitcode  : 85" in errors
    assert not list(run.glob("experts/[0-9]/phase.json")), "in the middle of two experts"
    last = {line["phase"]: line["step"] for line in metrics(run)}
    for expert in "01":
        newest = max(run.glob(f"experts/{expert}/checkpoint-*"))
        assert int(newest.name.removeprefix("checkpoint-")) == last[expert], "nothing that was trained is lost"
    finish(start("groups", 2, **grouped))
    assert weights(run) == weights(alone(**sections))
    assert metrics(run) == metrics(alone(**sections))


def test_jobs_that_overlap_share_the_work_and_one_that_is_killed_disturbs_nobody(alone: Alone, start: Start, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "array"
    first, second = start("array", only="0:3", **ARRAY), start("array", only="1:4", **ARRAY)
    victim = wait_for_checkpoint(run, str(first.pid), first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    messages = finish(second)
    assert (run / "experts" / "3" / "phase.json").exists()
    again = start("array", only="0:3", **ARRAY)
    finish(again)
    assert weights(run) == weights(alone(**ARRAY)), messages
    assert metrics(run) == metrics(alone(**ARRAY))
    by = trained_by(run)
    others = {phase: processes for phase, processes in by.items() if phase != victim}
    assert all(len(processes) == 1 for processes in others.values()), f"{victim} was interrupted, all others were trained once: {by}"
    assert by[victim][0] == str(first.pid)
    assert len(by[victim]) == 2
    assert str(second.pid) in {processes[0] for processes in by.values()}


def wait_for_checkpoint(run: Path, pid: str, process: subprocess.Popen[str]) -> str:
    """The expert that a process is training, once there is something of it to go on from."""
    end = time.monotonic() + 200
    while time.monotonic() < end and process.poll() is None:
        for phase, processes in trained_by(run).items():
            if processes[-1] == pid and phase != "shared" and any(run.glob(f"experts/{phase}/checkpoint-*/state.json")):
                return phase
        time.sleep(0.01)
    process.kill()
    pytest.fail(f"no checkpoint: {process.communicate()[1]}")
