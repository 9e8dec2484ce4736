"""The ledger beside a store: what private runs, audits and releases of one cohort add up to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from volgen.commands.release.release import release
from volgen.commands.statement.statement import statement
from volgen.commands.train.train import train
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.data.store import Store
from volgen.privacy import cohort_entries
from volgen.privacy.accounting import Steps, epsilon
from volgen.privacy.cohort_ledger import CohortLedger
from volgen.recipe import Recipe
from volgen.runs.trained import open_run

NAME = "epsilon, all private runs of the cohort"


@pytest.fixture(name="store")
def _store(blob_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(blob_store, tmp_path / "cohort.zarr"))


def recipe(store: Path, name: str, **sections: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": name, "runs": str(store.parent / "runs"), "seed": 5, "data": {"store": str(store), "shape": [16, 16, 16], "batch_size": 2},
        "schedule": {"kind": "log_snr", "points": 4, "sigma_max": 30.0},
        "network": {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4}, "preconditioner": {"kind": "edm"},
        "optimiser": {"gradient_clip": 0.0}, "stopping": {"max_steps": 2, "min_steps": 2},
        "privacy": {"kind": "dp_sgd", "epsilon": 3.0, "delta": 1e-3, "accountant": "rdp", "spare": 0.5},
        **sections,
    }  # fmt: skip
    return validate(Recipe, content, "test")


def ledger_of(store: Path) -> CohortLedger:
    return CohortLedger(str(store), Store.open(store).fingerprint)


def said(run: Path, out: Path) -> dict[str, Any]:
    statement(run, out)
    return dict(json.loads((out / "statement.json").read_text()))


def row(content: dict[str, Any]) -> tuple[str, str]:
    ((value, text),) = [(each["value"], each["text"]) for each in content["numbers"] if each["name"] == NAME]
    return value, text


def test_two_private_runs_of_one_cohort_add_up_and_a_deleted_one_stays(store: Path, tmp_path: Path) -> None:
    one = train(recipe(store, "one"))
    assert "only one that its store has seen" in row(said(one, tmp_path / "alone"))[1]
    two = train(recipe(store, "two"))
    spent = ledger_of(store).spent()
    assert spent and len(spent.runs) == 2 and not spent.unfinished
    steps = [each for run in spent.runs.values() for each in run]
    assert sum(each.count for each in steps) == 4
    shutil.rmtree(one)
    value, text = row(said(two, tmp_path / "both"))
    alone = json.loads((two / "privacy_ledger.json").read_text())["epsilon"]
    assert float(value) == pytest.approx(epsilon(steps, 1e-3, "rdp"), rel=1e-3) and float(value) > alone
    assert text.startswith("2 that this very store has seen")
    written = (tmp_path / "cohort.zarr.privacy.jsonl").read_text() + json.dumps(said(two, tmp_path / "again"))
    assert "sub-" not in written, "no person is named"


def test_a_run_counts_with_all_it_may_take_from_before_its_first_step(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("volgen.privacy.ledger.Ledger.take", killed)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(store, "killed"))
    spent = ledger_of(store).spent()
    assert spent and len(spent.unfinished) == 1
    assert [each.count for run in spent.runs.values() for each in run if each.count] == [2]
    monkeypatch.undo()
    # Nothing was trained, so another configuration begins it anew: what the first one might have taken is not counted any more.
    run = train(recipe(store, "killed", optimiser={"gradient_clip": 0.0, "learning_rate": 2e-3}))
    spent = ledger_of(store).spent()
    assert spent and len(spent.runs) == 2 and not spent.unfinished
    assert sum(each.count for run in spent.runs.values() for each in run) == 2
    assert json.loads((run / "privacy_ledger.json").read_text())["assumed"]["cohort_ledger"].startswith("this run is entered")
    gone = cohort_entries.find(run, str(store))
    assert gone is not None
    gone.enter_run("deleted", [Steps(0.5, 2.0, 7)], finished=False)
    assert "1 of them not finished, or deleted before" in row(said(run, tmp_path / "statement"))[1]


def test_a_finished_run_that_is_trained_on_counts_with_all_it_may_take(store: Path, tmp_path: Path) -> None:
    run = train(recipe(store, "one"))
    for lost in ("ensemble.json", "experts/0/weights.safetensors", "experts/0/phase.json"):
        (run / lost).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("volgen.training.private.PatientGradient.take", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(recipe(store, "one"))
    spent = ledger_of(store).spent()
    assert spent and len(spent.unfinished) == 1 and sum(each.count for steps in spent.runs.values() for each in steps) == 4
    ledger = json.loads((run / "privacy_ledger.json").read_text())
    assert ledger["state"] == "training" and ledger["epsilon"] >= 3.0, "right whenever it is read"


def test_where_nothing_can_be_entered_the_run_says_so_and_so_does_its_statement(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CohortLedger, "obstacle", lambda self: "Read-only file system")
    run = train(recipe(store, "one"))
    assert "are not added up" in capsys.readouterr().err
    content = said(run, tmp_path / "statement")
    assert row(content)[0] == "not known" and "Read-only file system" in row(content)[1]
    assert any("Read-only file system" in text for text in content["assumptions"])
    assert not (tmp_path / "cohort.zarr.privacy.jsonl").exists()


def test_what_is_not_known_is_said(store: Path, tmp_path: Path) -> None:
    run, journal = train(recipe(store, "one")), tmp_path / "cohort.zarr.privacy.jsonl"
    kept = journal.read_text()
    journal.unlink()
    assert "not at hand" in row(said(run, tmp_path / "a"))[1]
    CohortLedger(str(store), "another cohort").enter_audit("x", refuted=False)
    assert "does not know this run" in row(said(run, tmp_path / "b"))[1]
    journal.write_text(kept + '{"half a li')
    ledger_of(store).enter_run("other", [Steps(0.5, 2.0, 7)], finished=True)
    assert "1 lines of the ledger cannot be read" in row(said(run, tmp_path / "c"))[1]
    spent = ledger_of(store).spent()
    assert spent and spent.unreadable == 1 and len(spent.runs) == 2, "a part of a line does not swallow the next"
    out = release(run, tmp_path / "released")
    assert row(json.loads((out / "statement.json").read_text()))[1].startswith("2 that this very store"), "the sum goes out with a release"
    assert "does not know its cohort" in row(said(out, tmp_path / "d"))[1]
    content = said(run, tmp_path / "e")
    assert any("on copies of the store" in text for text in content["not_protected"])
    assert not any("held other scans" in text for text in content["not_protected"])
    CohortLedger(str(store), "the store before it grew").enter_run("older", [Steps(0.5, 2.0, 7)], finished=True)
    content = said(run, tmp_path / "f")
    assert any(text.startswith("what 1 private runs tell") and "held other scans" in text for text in content["not_protected"])


def test_audits_and_releases_are_entered_and_a_refuted_run_is_not_released(store: Path, tmp_path: Path) -> None:
    run = train(recipe(store, "one"))
    mine = open_run(run).fingerprint
    ledger = ledger_of(store)
    ledger.enter_audit("another", refuted=False)
    ledger.enter_release("plain", private=False)
    release(run, tmp_path / "out")
    texts = " ".join(said(run, tmp_path / "statement")["not_protected"])
    assert "1 audits" in texts and "1 runs without privacy" in texts
    ledger.enter_audit(mine, refuted=True)
    with pytest.raises(UserError, match="an audit refuted"):
        release(run, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_a_link_is_not_written_through(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "cohort.zarr.privacy.jsonl").symlink_to(tmp_path / "mine")
    assert "link" in ledger_of(store).obstacle()
    with pytest.raises(OSError, match="link"):
        ledger_of(store).enter_audit("x", refuted=False)
    assert (tmp_path / "mine").read_text() == "precious" and ledger_of(store).spent() is None
    assert CohortLedger("s3://bucket/store", "x").obstacle() == "the store is remote"
