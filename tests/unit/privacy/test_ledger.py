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

from volgen.core import ledger as ledgers
from volgen.core.errors import UserError
from volgen.core.run_files import JOURNAL
from volgen.privacy import ledger as journals
from volgen.privacy.accounting import Steps, epsilon, replace_one
from volgen.privacy.ledger import Budget, BudgetSpent, Ledger
from volgen.privacy.plans.dp_sgd import Mechanism

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

    monkeypatch.setattr(journals.os, "fsync", fsync)
    ledger.take("0", 1, MECHANISM)
    assert seen == [(tmp_path / JOURNAL).stat().st_size]


KILLED = """
import os, signal, sys
from pathlib import Path
from volgen.privacy.ledger import Ledger
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
        "scope": "unknown", "mechanism": "Poisson-subsampled Gaussian", "sampling_rate": 0.1, "noise_multiplier": 2.0,
        "clip_norm": 1.0, "steps": 1,
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
    for written, said in (('{"version": 99}\n', "cannot judge"), ("[]\n", "another form"), ("{}\n", "made by volgen 0.1.0 and is void")):
        path.write_text(written)
        with pytest.raises(UserError, match=said):
            Ledger(tmp_path)


def test_a_ledger_says_which_relations_hold_with_an_epsilon_each(tmp_path: Path) -> None:
    for folder, neighbouring in ((tmp_path / "a", "zero-out"), (tmp_path / "b", "add-or-remove-one")):
        folder.mkdir()
        ledger = Ledger.create(folder, BUDGET, MECHANISM, 40, {}, neighbouring)
        for step in range(1, 6):
            ledger.take("0", step, MECHANISM)
        summary = Ledger(folder).summary(finished=True)
        bounds = {each["neighbouring"]: each["epsilon"] for each in summary["guarantees"]}
        replaced = bounds.pop("replace-one")
        assert summary["neighbouring"] == neighbouring and bounds[neighbouring] == summary["epsilon"] == ledger.epsilon()
        assert set(bounds) == {neighbouring, "zero-out"} and set(bounds.values()) == {summary["epsilon"]}
        assert replaced == replace_one([Steps(0.1, 2.0, 5)], 1e-5) > summary["epsilon"] / 1.2
        assert all(each["delta"] == 1e-5 for each in summary["guarantees"])
        unfinished = ledger.summary(finished=False)["guarantees"]
        assert {each["epsilon"] for each in unfinished} == {3.0}, "the budget, until the end"


def test_a_journal_of_0_1_0_is_void(tmp_path: Path) -> None:
    make(tmp_path).take("0", 1, MECHANISM)
    path = tmp_path / JOURNAL
    first, *rest = path.read_text().splitlines(keepends=True)
    header = json.loads(first)
    assert header["version"] == 2 and header["randomness"] == "by patient, from a secret of the launch"
    for gone in ("version", "randomness", "neighbouring"):
        del header[gone]
    path.write_text("".join([json.dumps(header) + "\n", *rest]))
    with pytest.raises(UserError, match=r"made by volgen 0\.1\.0 and is void: what a patient added .* Begin again"):
        Ledger(tmp_path)
    path.write_text("".join([json.dumps({**header, "version": 3}) + "\n", *rest]))
    with pytest.raises(UserError, match="version 3, which this volgen cannot judge"):
        Ledger(tmp_path)


def test_a_journal_of_0_1_1_counts_as_it_did_and_is_continued_in_its_form(tmp_path: Path) -> None:
    """Written by 0.1.1, which knew one mechanism; two networks of two steps."""
    mechanism = '{"sampling_rate": 0.375, "noise_multiplier": 1.031, "clip_norm": 1.0}'
    header = (
        '{"version": 2, "randomness": "by patient, from a secret of the launch", "neighbouring": "zero-out", "budget": {"epsilon": 6.0,'
        f' "delta": 0.001, "accountant": "rdp"}}, "mechanism": {mechanism}, "planned_steps": 9, "assumed": {{"patients": 8, "views": 1}}}}'
    )
    steps = [(0, "1", 1), (1, "1", 2), (2, "0", 1), (3, "0", 2)]
    lines = [f'{{"n": {n}, "scope": "{scope}", "step": {step}, "mechanism": {mechanism}}}' for n, scope, step in steps]
    (tmp_path / JOURNAL).write_text("".join(f"{line}\n" for line in (header, *lines)))
    ledger = Ledger(tmp_path)
    assert (ledger.planned, ledger.count(), ledger.mechanism) == (9, 4, Mechanism(0.375, 1.031, 1.0))
    assert ledger.epsilon() == epsilon([Steps(0.375, 1.031, 4)], 1e-3, "rdp")
    entry = '"mechanism": "Poisson-subsampled Gaussian", "sampling_rate": 0.375, "noise_multiplier": 1.031, "clip_norm": 1.0, "steps": 2'
    assert json.dumps(ledger.summary(finished=True)["entries"]) == f'[{{"scope": "0", {entry}}}, {{"scope": "1", {entry}}}]'
    ledger.take("0", 3, ledger.mechanism)
    assert (tmp_path / JOURNAL).read_text().splitlines() == [
        header, *lines, f'{{"n": 4, "scope": "0", "step": 3, "mechanism": {mechanism}}}',
    ]  # fmt: skip


def test_a_claim_of_0_1_0_does_not_count(tmp_path: Path) -> None:
    make(tmp_path).write_summary(finished=False)
    now = ledgers.read(tmp_path)
    assert now["epsilon"] == 3.0 and now["version"] == 2 and "void" not in now
    old = {key: value for key, value in now.items() if key != "version"}
    void = ledgers.checked(old)
    assert void["epsilon"] is None and void["delta"] is None and void["void"] == {"epsilon": 3.0, "delta": 1e-5}
    assert "claims (3, 1e-05), was made by volgen 0.1.0 and is void" in void["why"]
    assert ledgers.checked(void) == void, "reading it twice changes nothing"
    assert "void" not in ledgers.checked({"epsilon": None, "why": "none"}), "who claims nothing has nothing to be voided"


WRONG: list[dict[str, object]] = [
    {"sampling_rate": 1.5}, {"sampling_rate": 0.0}, {"sampling_rate": "0.1"}, {"noise_multiplier": -1.0}, {"noise_multiplier": True},
    {"clip_norm": 0.0}, {"clip_norm": None},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_line_that_makes_no_sense_counts_as_a_step_of_the_run(tmp_path: Path, wrong: dict[str, object]) -> None:
    make(tmp_path).take("0", 1, MECHANISM)
    path = tmp_path / JOURNAL
    header, line = (json.loads(text) for text in path.read_text().splitlines())
    line["mechanism"].update(wrong)
    path.write_text(json.dumps(header) + "\n" + json.dumps(line) + "\n")
    ledger = Ledger(tmp_path)
    assert (ledger.count("0"), ledger.count()) == (0, 1) and ledger.epsilon() == epsilon([Steps(0.1, 2.0, 1)], 1e-5, "rdp")


@pytest.mark.parametrize(
    ("section", "wrong"),
    [("mechanism", each) for each in WRONG] + [("budget", {"epsilon": 0.0}), ("budget", {"delta": 2.0}), ("budget", {"accountant": "mine"}),
     ("budget", {"epsilon": "3"})],
    ids=str,
)  # fmt: skip
def test_a_first_line_that_makes_no_sense_is_refused(tmp_path: Path, section: str, wrong: dict[str, object]) -> None:
    make(tmp_path)
    header = json.loads((tmp_path / JOURNAL).read_text())
    header[section].update(wrong)
    (tmp_path / JOURNAL).write_text(json.dumps(header) + "\n")
    with pytest.raises(UserError, match="another form"):
        Ledger(tmp_path)


OPTIMISED = """
import json, sys
from pathlib import Path
from volgen.core.errors import UserError
from volgen.core.run_files import JOURNAL, METRICS
from volgen.privacy.ledger import Ledger
from volgen.training import metrics
assert False, "asserts are off"
folder = Path(sys.argv[1])
ledger = Ledger(folder)
print(ledger.count("0"), ledger.count())
(folder / METRICS).write_text('{"phase": 1, "step": "x"}' + chr(10))
try:
    metrics.put_in_order(folder, ["0"])
except UserError as error:
    print(error.found)
"""


def test_checks_are_made_without_asserts_too(tmp_path: Path) -> None:
    """python -O leaves asserts out: a rate of 7 must not be taken then."""
    make(tmp_path).take("0", 1, MECHANISM)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write(json.dumps({"n": 1, "scope": "0", "step": 2, "mechanism": {**vars(MECHANISM), "sampling_rate": 7.0}}) + "\n")
    done = subprocess.run([sys.executable, "-O", "-c", OPTIMISED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["1 2", "line 1 is damaged"], done.stderr


def test_a_journal_is_never_begun_twice(tmp_path: Path) -> None:
    make(tmp_path).take("0", 1, MECHANISM)
    with pytest.raises(FileExistsError):
        make(tmp_path)
    assert Ledger(tmp_path).count() == 1
