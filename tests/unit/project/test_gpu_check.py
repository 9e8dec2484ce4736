"""The GPU check: a part that fails, hangs or dies leaves the others and the report as they are, and every test of it can fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
CHECK = ROOT / "tests" / "gpu" / "harness" / "check.py"
PART = '''"""{title}."""
import json, os, subprocess, time
import pytest
LIMIT = {{"cuda": 60, "cpu": {limit}}}
TURN = {turn}
@pytest.mark.gpu
def test_it():
    with open(os.environ["VOLGEN_CHECK_RECORD"], "a") as record:
        record.write(json.dumps({{"figure": "process", "value": os.getpid(), "unit": ""}}) + "\\n")
    {body}
'''


def _parts(folder: Path, **parts: tuple[int, float, str]) -> Path:
    folder.mkdir()
    for name, (turn, limit, body) in parts.items():
        (folder / f"test_{name}.py").write_text(PART.format(title=f"Part {name}", turn=turn, limit=limit, body=body))
    return folder


def _command(out: Path, parts: Path) -> list[str]:
    return [sys.executable, str(CHECK), str(out), "--cpu", "--parts", str(parts)]


def _read(out: Path) -> dict[str, dict[str, Any]]:
    return {part["part"]: part for part in json.loads((out / "check.json").read_text())["parts"]}


def test_what_fails_hangs_or_dies_leaves_the_rest_and_the_report(tmp_path: Path) -> None:
    parts = _parts(
        tmp_path / "parts",
        first=(0, 60, "pass"),
        wrong=(1, 60, "assert 1 + 1 == 3"),
        dies=(2, 60, "os.abort()"),
        hangs=(2, 12, "subprocess.run(['sleep', '600'])"),
        well=(2, 60, "pass"),
    )
    done = subprocess.run(_command(tmp_path / "out", parts), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3, done.stdout + done.stderr
    found = _read(tmp_path / "out")
    outcomes = {name: part["outcome"] for name, part in found.items()}
    assert outcomes == {"first": "passed", "wrong": "failed", "dies": "failed", "hangs": "out of time", "well": "passed"}
    assert [figure["figure"] for figure in found["hangs"]["figures"]] == ["process"], "what it had measured is there"
    assert "1 + 1" in found["wrong"]["said"] and found["hangs"]["seconds"] < 60
    table = (tmp_path / "out" / "check.md").read_text()
    assert "| hangs | out of time |" in table and "| process |" in table


def test_a_check_that_is_killed_leaves_a_report(tmp_path: Path) -> None:
    parts = _parts(tmp_path / "parts", first=(0, 60, "pass"), long=(1, 60, "time.sleep(600)"))
    out = tmp_path / "out"
    check = subprocess.Popen(_command(out, parts), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not ((out / "check.json").exists() and _read(out)["long"]["figures"]) and time.monotonic() < until:
        time.sleep(0.2)
    check.kill()
    check.wait()
    found = _read(out)
    os.kill(int(found["long"]["figures"][0]["value"]), signal.SIGKILL)  # nobody else ends it now
    assert (found["first"]["outcome"], found["long"]["outcome"]) == ("passed", "running")


def test_no_time_is_left_for_what_comes_last(tmp_path: Path) -> None:
    parts = _parts(tmp_path / "parts", first=(0, 60, "time.sleep(600)"), last=(1, 60, "pass"))
    command = [*_command(tmp_path / "out", parts), "--minutes", "0.05"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert [part["outcome"] for part in _read(tmp_path / "out").values()] == ["out of time", "not run"]


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_every_test_of_the_check_notices_what_it_is_about(tmp_path: Path) -> None:
    """In its small form, with what each test is about broken (its mark ``mutant``)."""
    subprocess.run([sys.executable, str(CHECK), str(tmp_path), "--cpu"], env={**os.environ, "VOLGEN_CHECK_MUTANTS": "1"}, check=False)
    found = _read(tmp_path)
    assert len(found) >= 8
    missed = [f"{name}: {test['test']}" for name, part in found.items() for test in part["tests"] if test["outcome"] == "passed"]
    assert not missed
    assert all(part["outcome"] == "failed" and part["tests"] for part in found.values())
