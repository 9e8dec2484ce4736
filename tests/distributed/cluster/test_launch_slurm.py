"""launch/slurm.sbatch and launch/slurm_array.sbatch in a real Slurm."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Slurm

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]
LONG: dict[str, dict[str, Any]] = {
    "experts": {"count": 1}, "stopping": {"max_steps": 60, "validate_every": 20}, "engine": {"checkpoint_every": 5},
}  # fmt: skip
SECONDS = 400


@pytest.fixture
def submit(slurm: Slurm, environment: dict[str, str], repository: Path, tmp_path: Path) -> Callable[..., str]:
    """``submit(script, config, *options, **variables)``: submits a recipe from the checkout."""

    def submit(script: str, config: Path, *options: str, **variables: str) -> str:
        words = ["--chdir", str(repository), *options, f"launch/{script}", "--config", str(config)]
        return slurm.submit(words, cwd=repository, env={**environment, **variables})

    return submit


def until_checkpoint(slurm: Slurm, job: str, run: Path, log: Path) -> None:
    end = time.monotonic() + SECONDS
    while not list(run.glob("experts/0/checkpoint-*")):
        waiting = slurm.state(job)["JobState"] in ("PENDING", "CONFIGURING", "RUNNING")
        assert waiting and time.monotonic() < end, log.read_text() if log.exists() else slurm.state(job)
        time.sleep(0.05)


def test_a_job_that_is_signalled_saves_requeues_itself_and_ends_as_if_nothing_had_been(
    slurm: Slurm, submit: Callable[..., str], configure: Callable[..., Path], alone: Callable[..., Path],
    same_losses: Callable[..., None], tmp_path: Path,
) -> None:  # fmt: skip
    run, log = tmp_path / "runs" / "requeued", tmp_path / "log"
    job = submit("slurm.sbatch", configure("requeued", **LONG), "--ntasks", "2", "--output", str(log))
    until_checkpoint(slurm, job, run, log)
    slurm.run("scancel", "--signal=USR1", job)  # what Slurm sends to the tasks three minutes before the end of their time
    state = slurm.wait(job, SECONDS)
    said = log.read_text()
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("COMPLETED", "0:0", "1"), said
    assert "with 2 ranks by srun, rank 0 at localhost:" in said
    assert said.index("stopped by SIGUSR1; a checkpoint is written") < said.index("saved; the job is requeued") < said.index("is finished")
    same_losses(run, alone(**LONG))


def test_a_job_that_is_cancelled_stays_away(
    slurm: Slurm, submit: Callable[..., str], configure: Callable[..., Path], tmp_path: Path
) -> None:
    run, log = tmp_path / "runs" / "cancelled", tmp_path / "log"
    job = submit("slurm.sbatch", configure("cancelled", **LONG), "--ntasks", "2", "--output", str(log))
    until_checkpoint(slurm, job, run, log)
    slurm.run("scancel", job)
    state = slurm.wait(job, 100)
    time.sleep(3)
    assert slurm.state(job)["JobState"] == "CANCELLED" and state["Restarts"] == "0", log.read_text()
    assert not (run / "ensemble.json").exists(), "it was cancelled too late for this test"


def test_an_error_of_the_user_is_not_requeued(slurm: Slurm, submit: Callable[..., str], tmp_path: Path) -> None:
    job = submit("slurm.sbatch", tmp_path / "absent.yaml", "--ntasks", "2", "--output", str(tmp_path / "log"))
    state = slurm.wait(job, 100)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "2:0", "0"), (tmp_path / "log").read_text()
    assert "absent.yaml" in (tmp_path / "log").read_text()


def test_a_job_that_never_begins_to_train_is_not_requeued_for_ever(slurm: Slurm, submit: Callable[..., str], tmp_path: Path) -> None:
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text('#!/bin/sh\ncase "$*" in *train*) kill -USR1 $$ ;; esac\n')
    (programs / "python").chmod(0o755)
    job = submit("slurm.sbatch", tmp_path / "x.yaml", "--ntasks", "2", "--output", str(tmp_path / "log"), VENV=str(programs.parent))
    state = slurm.wait(job, SECONDS)
    said = (tmp_path / "log").read_text()
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "2:0", "3"), said
    assert "the signal came before training had begun (exit code 138), after 3 restarts" in said


def test_an_array_of_two_jobs_trains_every_expert_once(
    slurm: Slurm, submit: Callable[..., str], configure: Callable[..., Path], alone: Callable[..., Path],
    same_losses: Callable[..., None], tmp_path: Path,
) -> None:  # fmt: skip
    sections = {"experts": {"count": 2, "warm_start": "none"}}
    config, run = configure("array", **sections), tmp_path / "runs" / "array"
    options = ("--array", "0-1", "--ntasks", "1", "--cpus-per-task", "1")
    job = submit("slurm_array.sbatch", config, *options, "--output", str(tmp_path / "first-%a"))
    states = [slurm.wait(f"{job}_{task}", SECONDS) for task in (0, 1)]
    said = [(tmp_path / f"first-{task}").read_text() for task in (0, 1)]
    assert [state["JobState"] for state in states] == ["COMPLETED"] * 2, said
    assert "expert 0 of 2" in said[0] and "expert 1 of 2" not in said[0]
    assert "expert 1 of 2" in said[1] and "expert 0 of 2" not in said[1]
    assert len(json.loads((run / "ensemble.json").read_text())["experts"]) == 2
    same_losses(run, alone(**sections))
    before = (run / "metrics.jsonl").read_bytes()
    job = submit("slurm_array.sbatch", config, *options, "--output", str(tmp_path / "second-%a"))
    assert [slurm.wait(f"{job}_{task}", SECONDS)["JobState"] for task in (0, 1)] == ["COMPLETED"] * 2
    assert "is finished; nothing to do" in (tmp_path / "second-0").read_text()
    assert (run / "metrics.jsonl").read_bytes() == before
