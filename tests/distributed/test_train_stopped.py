"""Killed, interrupted, terminated: the run goes on and becomes what it would have become."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from volgen.core.files import sha256

pytestmark = pytest.mark.distributed

Alone, Start = Callable[..., Path], Callable[..., subprocess.Popen[str]]
SECTIONS: dict[str, dict[str, Any]] = {
    "experts": {"count": 1},
    "stopping": {"max_steps": 120, "validate_every": 40},
    "engine": {"checkpoint_every": 7},
}


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def new_checkpoint(process: subprocess.Popen[str], run: Path) -> str:
    """Waits until the run has written a checkpoint since, so that what follows hits it in the middle of training."""
    before = {path.name for path in run.glob("experts/0/checkpoint-*")}
    end = time.monotonic() + 240
    while time.monotonic() < end and process.poll() is None:
        for state in run.glob("experts/0/checkpoint-*/state.json"):
            if state.parent.name not in before:
                return state.parent.name
        time.sleep(0.005)
    process.kill()
    pytest.fail(f"no checkpoint: {process.communicate()[1]}")


def finish(process: subprocess.Popen[str]) -> str:
    """Waits for the end and returns what it said."""
    _, errors = process.communicate(timeout=240)
    return errors


def equal(run: Path, undisturbed: Path) -> None:
    assert metrics(run) == metrics(undisturbed)
    weights = "experts/0/weights.safetensors"
    assert sha256(run / weights) == sha256(undisturbed / weights)


def stop(number: signal.Signals, start: Start, run: Path) -> None:
    """Begins or continues ``run`` and interrupts it after a checkpoint."""
    process = start(run.name, **SECTIONS)
    periodic = new_checkpoint(process, run)
    process.send_signal(number)
    errors = finish(process)
    assert process.returncode == (130 if number == signal.SIGINT else 85), errors
    assert f"stopped by {number.name}; a checkpoint is written. The same command continues this run." in errors
    checkpoint = max(run.glob("experts/0/checkpoint-*"))
    assert checkpoint.name > periodic, "a newer one than the periodic checkpoint"
    assert metrics(run)[-1]["step"] == int(checkpoint.name.removeprefix("checkpoint-")), "nothing that was trained is lost"


def kill(start: Start, run: Path) -> None:
    """Begins or continues ``run`` and kills it after a checkpoint."""
    process = start(run.name, **SECTIONS)
    new_checkpoint(process, run)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert process.returncode == -signal.SIGKILL
    assert not (run / "ensemble.json").exists()


def test_a_run_that_was_interrupted_and_then_killed_ends_as_if_nothing_had_been(
    alone: Alone, start: Start, resume: Callable[[str], None], tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "stopped"
    stop(signal.SIGINT, start, run)
    kill(start, run)
    resume("stopped")
    equal(run, alone(**SECTIONS))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_was_told_to_save_ends_as_if_nothing_had_been(
    number: signal.Signals, alone: Alone, start: Start, resume: Callable[[str], None], tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "stopped"
    stop(number, start, run)
    resume("stopped")
    equal(run, alone(**SECTIONS))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_stop_together_and_go_on(stage: int, start: Start, tmp_path: Path) -> None:
    sections = {**SECTIONS, "engine": {"checkpoint_every": 7, "zero_stage": stage}}
    process = start("whole", 2, **sections)
    errors = finish(process)
    assert process.returncode == 0, errors
    run = tmp_path / "runs" / "stopped"
    process = start("stopped", 2, **sections)
    new_checkpoint(process, run)
    process.send_signal(signal.SIGTERM)
    errors = finish(process)
    assert "a checkpoint is written" in errors
    assert not (run / "ensemble.json").exists()
    process = start("stopped", 2, **sections)
    errors = finish(process)
    assert process.returncode == 0, errors
    equal(run, tmp_path / "runs" / "whole")
