"""The ledger never counts less than was released: killed, resumed, side by side, damaged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from volgen.core.errors import UserError
from volgen.privacy import _ledger
from volgen.privacy._accounting import Steps, epsilon
from volgen.privacy._ledger import JOURNAL, Budget, BudgetSpent, Ledger, Mechanism

MECHANISM = Mechanism(0.1, 2.0, 1.0)
BUDGET = Budget(3.0, 1e-5, "rdp")


def make(folder: Path, planned: int = 40, budget: Budget = BUDGET) -> Ledger:
    return Ledger.create(folder, budget, MECHANISM, planned, {"people": 20})


def test_epsilon_is_that_of_all_networks_together(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    for scope, steps in (("shared", 3), ("0", 5), ("1", 4)):
        for step in range(1, steps + 1):
            ledger.take(scope, step, MECHANISM)
    assert ledger.epsilon() == epsilon([Steps(0.1, 2.0, 12)], 1e-5, "rdp") > epsilon([Steps(0.1, 2.0, 5)], 1e-5, "rdp")
    summary = ledger.summary(finished=True)
    assert [(entry["scope"], entry["steps"]) for entry in summary["entries"]] == [("0", 5), ("1", 4), ("shared", 3)]
    assert summary["epsilon"] == ledger.epsilon() and summary["unit"] == "patient" and summary["assumed"] == {"people": 20}
    assert ledger.summary(finished=False)["epsilon"] == 3.0, "until the end the file says what may be spent"


def test_different_mechanisms_compose(tmp_path: Path) -> None:
    ledger, other = make(tmp_path), Mechanism(0.3, 4.0, 0.5)
    for step in range(1, 8):
        ledger.take("0", step, MECHANISM)
        ledger.take("1", step, other)
    assert Ledger(tmp_path).epsilon() == pytest.approx(epsilon([Steps(0.1, 2.0, 7), Steps(0.3, 4.0, 7)], 1e-5, "rdp"))


def test_stops_when_the_budget_is_spent(tmp_path: Path) -> None:
    ledger = make(tmp_path, planned=1)
    steps = 0
    with suppress(BudgetSpent):
        while steps < 1000:
            ledger.take("0", steps + 1, MECHANISM)
            steps += 1
    assert epsilon([Steps(0.1, 2.0, steps)], 1e-5, "rdp") <= 3.0 < epsilon([Steps(0.1, 2.0, steps + 1)], 1e-5, "rdp")
    size = (tmp_path / JOURNAL).stat().st_size
    with pytest.raises(BudgetSpent):  # neither another network nor another process gets any more
        Ledger(tmp_path).take("1", 1, MECHANISM)
    assert (tmp_path / JOURNAL).stat().st_size == size


def test_a_step_is_on_the_disk_before_it_may_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, seen = make(tmp_path), []

    def fsync(descriptor: int) -> None:
        seen.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(_ledger.os, "fsync", fsync)
    ledger.take("0", 1, MECHANISM)
    assert seen == [(tmp_path / JOURNAL).stat().st_size]


KILLED = """
import os, signal, sys
from pathlib import Path
from volgen.privacy._ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
for step in range(1, 6):
    ledger.take("0", step, ledger.mechanism)
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)  # between the line and the noisy step
    Path(sys.argv[1], f"step{step}").touch()  # the noisy step
"""


def test_a_run_killed_between_line_and_step_counts_the_step(tmp_path: Path) -> None:
    make(tmp_path)
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert process.returncode == -signal.SIGKILL
    taken = len(list(tmp_path.glob("step*")))
    resumed = Ledger(tmp_path)
    assert (taken, resumed.count("0"), resumed.count()) == (2, 3, 3)
    resumed.check("0", taken)
    for step in (3, 4, 5):  # the third is taken again, with other noise
        resumed.take("0", step, MECHANISM)
    assert resumed.count() == 6 > 5


def test_two_processes_share_one_budget(tmp_path: Path) -> None:
    one = make(tmp_path, planned=1)
    other = Ledger(tmp_path)
    taken = 0
    for ledger in (one, other) * 200:
        try:
            ledger.take("0", 1, MECHANISM)
        except BudgetSpent:
            break
        taken += 1
    assert one.epsilon() == other.epsilon() <= 3.0 and one.count() == other.count() == taken
    numbers = [json.loads(line)["n"] for line in (tmp_path / JOURNAL).read_text().splitlines()[1:]]
    assert numbers == list(range(taken))


def test_half_a_line_counts_as_a_step(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    ledger.take("0", 1, MECHANISM)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"n": 1, "scope": "0", "st')
    again = Ledger(tmp_path)
    again.take("0", 2, MECHANISM)
    assert again.count("0") == 2 and again.count() == 3
    assert Ledger(tmp_path).summary(finished=True)["entries"][-1] == {
        "scope": "unknown", "mechanism": _ledger.MECHANISM, "sampling_rate": 0.1, "noise_multiplier": 2.0, "clip_norm": 1.0, "steps": 1,
    }  # fmt: skip


def test_lines_that_are_missing_count_too(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    for step in range(1, 8):
        ledger.take("0", step, MECHANISM)
    lines = (tmp_path / JOURNAL).read_text().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_text("".join([*lines[:2], "x" * 300 + "\n", *lines[5:]]))
    assert Ledger(tmp_path).count() == 7


def test_a_journal_that_was_cut_or_deleted_is_refused(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    for step in range(1, 4):
        ledger.take("0", step, MECHANISM)
    path = tmp_path / JOURNAL
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match="shorter"):
        ledger.take("0", 4, MECHANISM)
    with pytest.raises(UserError, match="knows of 2 steps of '0', which has 3"):
        Ledger(tmp_path).check("0", 3)
    path.unlink()
    with pytest.raises(UserError, match="is gone"):
        ledger.take("0", 4, MECHANISM)
    with pytest.raises(UserError, match="no such file"):
        Ledger(tmp_path)
    path.write_text("{}\n")
    with pytest.raises(UserError, match="another form"):
        Ledger(tmp_path)


def test_a_journal_is_never_begun_twice(tmp_path: Path) -> None:
    make(tmp_path).take("0", 1, MECHANISM)
    with pytest.raises(FileExistsError):
        make(tmp_path)
    assert Ledger(tmp_path).count() == 1
